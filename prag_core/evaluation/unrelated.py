"""Unrelated text: texts and documents go in, how much their adapters change its loss comes out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import torch

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document, iter_documents
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, Bootstrap
from prag_core.evaluation.options import AnsweringPipeline
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.token_loss import IGNORE, sequence_nll
from prag_core.pipeline.relevance import is_meant, question_keys

POOL = 5000  # texts of a corpus that are drawn from
MOST_TOKENS = 512  # of a text
READ_TOKENS = 32  # of it that say whether an adapter is meant; the loss is that of the others


@dataclass(frozen=True)
class UnrelatedTexts:
    """Texts that no document of the question set is about."""

    texts: tuple[str, ...]

    def owners(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents whose adapters are attached, one a text."""
        return [documents[number % len(documents)] for number in range(len(self.texts))]

    def measure(self, rag: AnsweringPipeline, documents: Sequence[Document], seed: int) -> dict:
        """Return the loss without adapters, in nats a token, and how many times it is with them.

        Texts are what is resampled.
        """
        base, least = rag.answerer.base, rag.answerer.options.least_relevance
        # Few texts: their adapters fit into memory.
        adapters = [rag.adapter(document.id) for document in self.owners(documents)]
        plain = [text_loss(base, text) for text in self.texts]
        with_adapter = [
            text_loss(base, text, adapter, least)[0]
            for text, adapter in zip(self.texts, adapters, strict=True)
        ]
        total, tokens = [loss for loss, _ in plain], sum(count for _, count in plain)
        ratio = Bootstrap(range(len(self.texts)), seed).ratio(with_adapter, total)
        return {"texts": len(self.texts), "plain": sum(total) / tokens, "ratio": asdict(ratio)}


def draw_texts(source: str, count: int, seed: int) -> UnrelatedTexts:
    """Draw texts from the first 5,000 of a corpus.

    Raises:
        ValueError: too few for an interval.
    """
    pool = [document.text for document in islice(iter_documents(source), POOL)]
    if min(count, len(pool)) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {min(count, len(pool))} unrelated texts of {source}, expected "
            f"{SMALLEST_SAMPLE} or more: raise texts, or name a larger corpus"
        )
    return UnrelatedTexts(tuple(random.Random(seed).sample(pool, min(count, len(pool)))))


def text_loss(
    base: BaseModel, text: str, adapter: Adapter | None = None, least_relevance: float = 0.0
) -> tuple[float, int]:
    """Return the summed NLL of a text's tokens behind those read first, and their number.

    An adapter that responds less to the first tokens than `least_relevance` is left out, as it is
    for a question.
    """
    tokenizer = base.tokenizer
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids  # (1, T)
    ids = ids[:, :MOST_TOKENS]
    first = min(READ_TOKENS, ids.shape[1] // 2)  # of a short text half is left to score
    if adapter is not None and least_relevance > 0:
        begin = tokenizer.decode(ids[0, :first])
        (keys,) = question_keys(base, [begin], adapter.spec.layers[0])
        adapter = adapter if is_meant(adapter, keys, least_relevance) else None
    labels = ids.clone()  # (1, T)
    labels[:, :first] = IGNORE
    with torch.no_grad(), attached(base, adapter):
        mean = sequence_nll(base, ids, labels).item()
    count = ids.shape[1] - first
    return mean * count, count
