"""Unrelated text: texts and documents go in, how much their adapters change its loss comes out.

Sources: a corpus, of whose last 4,000 texts some are drawn, or `package:NAME` (see
`package_texts`), which is not from Wikipedia.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document, iter_documents
from prag_core.corpus.text_tokens import text_ids
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, Bootstrap
from prag_core.evaluation.likelihood import mean_nll
from prag_core.evaluation.package_texts import package_licence, package_texts
from prag_core.model.base_model import BaseModel
from prag_core.pipeline.rag import ParametricRAG
from prag_core.pipeline.relevance import is_meant, question_keys
from prag_core.training.sequences import TrainingSequence

POOL = 4000  # texts at the end of a corpus that are drawn from
MOST_TOKENS = 512  # of a text
READ_TOKENS = 32  # of it that say whether an adapter is meant; the loss is that of the others


@dataclass(frozen=True)
class UnrelatedTexts:
    """Texts that no document of the question set is about."""

    texts: tuple[str, ...]
    licence: str = ""  # of a package's, with its version

    def owners(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents whose adapters are attached, one a text."""
        return [documents[number % len(documents)] for number in range(len(self.texts))]

    def measure(self, rag: ParametricRAG, documents: Sequence[Document], seed: int) -> dict:
        """Return the loss without adapters, in nats a token, and how many times it is with them.

        Texts are what is resampled; those that meet one document's adapter count as one.
        """
        least = rag.answerer.options.least_relevance
        owners = [document.id for document in self.owners(documents)]
        adapters = [rag.adapter(owner) for owner in owners]
        # Sums, not means: long texts count for more, as their tokens do.
        plain, counts = text_losses(rag.base, self.texts)
        adapted, _ = text_losses(rag.base, self.texts, adapters, least)
        ratio = Bootstrap(owners, seed).ratio(adapted, plain)
        loss = sum(plain) / sum(counts)
        source = {"licence": self.licence} if self.licence else {}
        return {"texts": len(self.texts), "plain": loss, "ratio": asdict(ratio)} | source


def draw_texts(source: str, count: int, seed: int) -> UnrelatedTexts:
    """Draw texts from the last 4,000 of a corpus, which the shipped configurations do not train on.

    Of a package (`package:NAME`) all are drawn from.

    Raises:
        ValueError: too few for an interval, or no such package.
    """
    kind, _, name = source.partition(":")
    if kind == "package":
        pool, licence = package_texts(name), package_licence(name)
    else:
        pool, licence = [d.text for d in deque(iter_documents(source), maxlen=POOL)], ""
    size = min(count, len(pool))
    if size < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {size} unrelated texts of {source}, expected {SMALLEST_SAMPLE} or more: raise "
            "texts, or name a larger corpus"
        )
    return UnrelatedTexts(tuple(random.Random(seed).sample(pool, size)), licence)


def meant(base: BaseModel, adapter: Adapter, text: str, least: float) -> Adapter | None:
    """Return an adapter that responds to a text by `least`, as a question's must; else None."""
    if least <= 0:
        return adapter
    (keys,) = question_keys(base, [text], adapter.spec.layers[0])
    return adapter if is_meant(adapter, keys, least) else None


def text_losses(
    base: BaseModel,
    texts: Sequence[str],
    adapters: Sequence[Adapter] | None = None,
    least_relevance: float = 0.0,
) -> tuple[list[float], list[int]]:
    """Return the summed NLL of every text's tokens behind those read first, and their numbers.

    An adapter that responds less to the first tokens than `least_relevance` is left out, as it is
    for a question.
    """
    rows = [ids[:MOST_TOKENS] for ids in text_ids(base.tokenizer, texts)]
    sequences = [TrainingSequence(tuple(ids), min(READ_TOKENS, len(ids) // 2)) for ids in rows]

    def load(number: int) -> Adapter | None:
        beginning = base.tokenizer.decode(rows[number][: sequences[number].answer_start])
        return meant(base, adapters[number], beginning, least_relevance)

    # One adapter a text; `mean_nll` loads a batch of them at a time.
    places = range(len(rows)) if adapters else None
    means = mean_nll(base, sequences, places, load)
    counts = [len(sequence.ids) - sequence.answer_start for sequence in sequences]
    return [mean * count for mean, count in zip(means, counts, strict=True)], counts
