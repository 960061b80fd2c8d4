"""Options of an evaluation, and what it needs of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from prag_core.evaluation.results import EVALUATED_MODES, SHUFFLED
from prag_core.pipeline.answers import Answer
from prag_core.retrieval.bm25 import Hit


class AnsweringPipeline(Protocol):
    """What evaluation needs of `ParametricRAG`."""

    def answer(
        self,
        questions: Sequence[str],
        mode: str,
        k: int,
        document_ids: Sequence[Sequence[str]] | None = None,
        scores: Sequence[Sequence[float]] | None = None,
    ) -> list[Answer]:
        """Answer the questions, in order."""

    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the k best documents of each question."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked and how.

    Attributes:
        modes: ways to answer, each with its own results: `closed_book`, `in_context`, `da_rag`,
            `parametric`, `combine`, `sft`, and the control `shuffled` (another document's adapter).
        k: documents a question, at most.
        retrieval: `gold` gives each question its own documents (the first k of its gold ids);
            `retriever` searches for them.
        seed: of the question sample, the shuffling and the bootstrap.
        limit: number of questions, a seeded sample in the set's order; all when omitted.
        chunk: questions answered between two writes; an interruption loses at most these.
    """

    modes: tuple[str, ...] = ("closed_book", "in_context", "parametric", "combine", SHUFFLED)
    k: int = 3
    retrieval: Literal["gold", "retriever"] = "retriever"
    seed: int = 0
    limit: int | None = None
    chunk: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for unknown or repeated modes and values out of range."""
        unknown = [mode for mode in self.modes if mode not in EVALUATED_MODES]
        if unknown or not self.modes or len(set(self.modes)) != len(self.modes):
            raise ValueError(
                f"got modes {list(self.modes)}, expected different ones of "
                f"{', '.join(EVALUATED_MODES)}: correct `modes`"
            )
        if self.retrieval not in ("gold", "retriever"):
            raise ValueError(f"got retrieval {self.retrieval!r}, expected gold or retriever")
        if self.k < 1 or self.chunk < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(
                f"got k {self.k}, chunk {self.chunk} and limit {self.limit}, expected 1 or more "
                "(no limit: all questions)"
            )
