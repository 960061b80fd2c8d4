"""Options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prag_core.adapters.names import WEIGHTINGS
from prag_core.evaluation.conditions import EvaluationOptions

PARTS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost")
NEED_QUESTIONS = ("quality", "merging")  # the others look at documents and adapters


@dataclass(frozen=True)
class CompareOptions:
    """What is compared.

    Attributes:
        paths: who makes the adapters: `trained`, `generated`, or what else is registered.
        parts: `quality`, `knowledge`, `similarity`, `side_effects`, `merging`, `cost`.
        conditions: of the part `quality` (see `prag_core.evaluation.conditions`).
        k: documents a question, at most.
        retrieval: `gold` gives each question its own documents, `retriever` searches for them.
        limit: number of questions, a seeded sample; 0 takes all.
        scored_documents: documents whose loss is measured, at most.
        merge_counts: values of k of the part `merging`.
        merge_questions: questions of that part, at most.
        merge_weights: weightings of that part.
        cost_documents: documents whose making is timed, at most.
        seed: of all samples, the controls and the bootstrap.
    """

    paths: tuple[str, ...] = ("trained", "generated")
    parts: tuple[str, ...] = PARTS
    conditions: tuple[str, ...] = (
        "closed_book", "in_context", "kv_cache", "reader", "da_rag", "sft", "parametric", "combine",
        "shuffled", "mean",
    )  # fmt: skip
    k: int = 1
    retrieval: Literal["gold", "retriever"] = "gold"
    limit: int = 0
    scored_documents: int = 100
    merge_counts: tuple[int, ...] = (1, 2, 3, 5, 10)
    merge_questions: int = 100
    merge_weights: tuple[str, ...] = ("ones", "mean", "relative")
    cost_documents: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for unknown or repeated names and sizes out of range."""
        # Paths are looked up where they are built: other packages may bring theirs.
        known = {"paths": self.paths, "parts": PARTS, "merge_weights": WEIGHTINGS}
        for name, names in known.items():
            given = getattr(self, name)
            if not given or len({*given}) != len(given) or not {*given} <= {*names}:
                raise ValueError(
                    f"got {name} {list(given)}, expected different ones of {', '.join(names)}"
                )
        self.evaluation(self.conditions)  # which checks them
        sizes = (self.scored_documents, self.merge_questions, self.cost_documents)
        if min(*sizes, *self.merge_counts, 1) < 1 or not self.merge_counts:
            raise ValueError(
                f"got scored_documents, merge_questions, cost_documents {sizes} and merge_counts "
                f"{list(self.merge_counts)}, expected 1 or more of each"
            )

    def evaluation(self, conditions: tuple[str, ...]) -> EvaluationOptions:
        """Return the options of `evaluate`; ValueError for conditions that there are not."""
        return EvaluationOptions(conditions, self.k, self.retrieval, self.seed)
