"""Options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prag_core.adapters.merge import WEIGHTINGS
from prag_core.evaluation.compare.quality import MODES
from prag_core.evaluation.options import EvaluationOptions

PARTS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost")
NEED_QUESTIONS = ("quality", "merging")


@dataclass(frozen=True)
class CompareOptions:
    """What is compared.

    Attributes:
        paths: who makes the adapters: `trained`, `generated`.
        parts: `quality`, `knowledge`, `similarity`, `side_effects`, `merging`, `cost`.
        modes: of the part `quality`: `closed_book`, `in_context`, `da_rag`, `sft`, `parametric`,
            `combine`, and the controls `shuffled` (another document's adapter) and `mean` (the
            mean of all updates).
        k: documents a question, at most.
        retrieval: `gold` gives each question its own documents, `retriever` searches for them.
        limit: number of questions, a seeded sample; all when omitted.
        scored_documents: documents whose NLL is measured, at most.
        merge_counts: values of k of the part `merging`.
        merge_questions: questions of that part, at most.
        merge_weights: weightings of that part.
        cost_documents: documents whose making is timed, at most.
        seed: of all samples, the controls and the bootstrap.
    """

    paths: tuple[Literal["trained", "generated"], ...] = ("trained", "generated")
    parts: tuple[str, ...] = PARTS
    modes: tuple[str, ...] = MODES
    k: int = 1
    retrieval: Literal["gold", "retriever"] = "gold"
    limit: int | None = None
    scored_documents: int = 100
    merge_counts: tuple[int, ...] = (1, 2, 3, 5, 10)
    merge_questions: int = 100
    merge_weights: tuple[str, ...] = ("ones", "mean", "relative")
    cost_documents: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for unknown or repeated names and sizes out of range."""
        allowed = {
            "paths": ("trained", "generated"),
            "parts": PARTS,
            "modes": MODES,
            "merge_weights": WEIGHTINGS,
        }
        for name, known in allowed.items():
            given = getattr(self, name)
            if not given or len({*given}) != len(given) or not {*given} <= {*known}:
                raise ValueError(
                    f"got {name} {list(given)}, expected different ones of {', '.join(known)}"
                )
        sizes = (self.scored_documents, self.merge_questions, self.cost_documents)
        if min(*sizes, *self.merge_counts, 1) < 1 or not self.merge_counts:
            raise ValueError(
                f"got scored_documents, merge_questions, cost_documents {sizes} and merge_counts "
                f"{list(self.merge_counts)}, expected 1 or more of each"
            )

    def evaluation(self) -> EvaluationOptions:
        """Return the options of `evaluate`."""
        return EvaluationOptions(k=self.k, retrieval=self.retrieval, seed=self.seed)
