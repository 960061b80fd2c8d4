"""Answers: the ways to ask, and the record that comes out."""

from __future__ import annotations

from dataclasses import dataclass

from prag_core.retrieval.bm25 import Hit

MODES = ("closed_book", "in_context", "da_rag", "parametric", "combine", "sft")
PASSAGE_MODES = ("in_context", "da_rag", "combine")
ADAPTER_MODES = ("parametric", "combine")


@dataclass(frozen=True)
class Answer:
    """One answered question and the documents it was answered from."""

    question: str
    text: str
    mode: str
    documents: tuple[Hit, ...] = ()


@dataclass(frozen=True)
class AnswerOptions:
    """How questions become prompts and adapters are merged.

    Attributes:
        style: `direct` (a short answer) or `cot` (few-shot chain of thought).
        merge_weights: `relative` (to the best retrieval score), `ones` (paper), `mean` or
            `score` (see `prag_core.adapters.merge.merge_weights`).
        least_relevance: generated adapters that respond less to a question are left out (see
            `prag_core.pipeline.relevance`; without any left it answers as closed_book). 0: none is.
    """

    style: str = "direct"
    merge_weights: str = "relative"
    least_relevance: float = 0.0
