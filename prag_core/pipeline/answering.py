"""Preparation: questions go in, each with documents, prompt and merged adapter comes out.

question -> documents (retrieved or named) -> prompt, adapter
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge, merge_weights
from prag_core.augmentation.augmented import augmented_passage
from prag_core.corpus.documents import Document
from prag_core.model.prompts import question_prompt
from prag_core.pipeline.answers import ADAPTER_MODES, MODES, PASSAGE_MODES
from prag_core.pipeline.relevance import relevant_hits
from prag_core.retrieval.bm25 import Hit

if TYPE_CHECKING:
    from prag_core.pipeline.rag import ParametricRAG


@dataclass(frozen=True)
class Prepared:
    """A question ready to be decoded."""

    question: str
    prompt: str
    adapter: Adapter | None
    documents: tuple[Hit, ...]


def find_hits(
    rag: ParametricRAG,
    questions: Sequence[str],
    mode: str,
    k: int,
    document_ids: Sequence[Sequence[str]] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
) -> list[list[Hit]]:
    """Return the documents of every question: those named, or else the retriever's best k.

    Named documents have the scores given, or 1 each.

    Raises:
        ValueError: an unknown mode or document, no documents, or not ids for every question.
    """
    if mode not in MODES:
        raise ValueError(f"got mode {mode!r}, expected one of {', '.join(MODES)}")
    if mode in ("closed_book", "sft"):
        return [[] for _ in questions]
    if document_ids is None:
        if not rag.documents:
            raise ValueError("got no documents, expected some: call add_documents first")
        return rag.retrieve(questions, k)
    if len(document_ids) != len(questions) or not all(document_ids):
        raise ValueError(
            f"got document ids for {sum(map(bool, document_ids))} questions, expected one or "
            f"more for each of the {len(questions)}: name them, or let the retriever choose"
        )
    for ids in document_ids:
        rag.require(ids)
    scores = scores or [[1.0] * len(ids) for ids in document_ids]
    return [
        [Hit(i, score) for i, score in zip(ids, row, strict=True)]
        for ids, row in zip(document_ids, scores, strict=True)
    ]


def prepare(
    rag: ParametricRAG, questions: Sequence[str], hits: Sequence[Sequence[Hit]], mode: str
) -> list[Prepared]:
    """Write every question's prompt and merge its documents' adapters, as the mode asks for.

    Raises:
        ValueError: a document without adapter, or a part that the mode needs is missing.
    """
    load, meant = lru_cache(None)(rag.adapter), hits
    if mode in ADAPTER_MODES and rag.options.least_relevance > 0:
        meant = relevant_hits(rag.base, questions, hits, load, rag.options.least_relevance)
    adapters = merged_adapters(load, meant, mode, rag.options.merge_weights)
    if mode == "sft":
        adapters = [rag.train_global()] * len(questions)
    rows = zip(questions, passages(rag, hits, mode), adapters, hits, strict=True)
    return [
        Prepared(
            question,
            question_prompt(rag.base.tokenizer, question, found, rag.options.style),
            adapter,
            tuple(row),
        )
        for question, found, adapter, row in rows
    ]


def passages(rag: ParametricRAG, hits: Sequence[Sequence[Hit]], mode: str) -> list[list[Document]]:
    """Return the passages that every question's prompt holds in this mode.

    Raises:
        ValueError: mode `da_rag` without augmenter.
    """
    if mode not in PASSAGE_MODES:
        return [[] for _ in hits]
    found = {hit.document_id: rag.documents[hit.document_id] for row in hits for hit in row}
    if mode == "da_rag":
        if rag.augmenter is None:
            raise ValueError("got no augmenter, expected one for mode da_rag: pass augmenter=")
        augmented = rag.augmenter.augment(list(found.values()))
        found = {a.document.id: augmented_passage(a) for a in augmented}
    return [[found[hit.document_id] for hit in row] for row in hits]


def merged_adapters(
    load: Callable[[str], Adapter], hits: Sequence[Sequence[Hit]], mode: str, weighting: str
) -> list[Adapter | None]:
    """Merge the adapters of every question's documents; None without any, or in other modes.

    Args:
        load: returns a document's adapter; called once a document.
        hits: documents of every question.
        mode: see `MODES`.
        weighting: see `merge_weights`.
    """
    if mode not in ADAPTER_MODES:
        return [None] * len(hits)
    loaded = {i: load(i) for i in {hit.document_id for row in hits for hit in row}}
    return [
        merge(
            [loaded[hit.document_id] for hit in row],
            merge_weights(weighting, [hit.score for hit in row]),
        )
        if row
        else None
        for row in hits
    ]
