"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prag_core.evaluation.conditions import SHUFFLED, parse_condition


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked and how.

    Attributes:
        conditions: ways to answer, each with its own results: the modes `closed_book`,
            `in_context`, `in_context_rows`, `kv_cache`, `reader`, `da_rag`, `parametric`,
            `combine`, `sft`; the controls `shuffled` (another document's adapter) and `mean` (of
            all adapters); of gold documents `gold`, `rank:R` and `gold+K`; MODE@K, from the first K
            documents; MODE:gated, without passages whose adapters do not respond;
            MODE:unanswerable, from the nearest documents that do not hold the answer, MODE:abstain
            and MODE:unanswerable:abstain; and MODE:prompt:NAME, in another wording (see
            `prag_core.evaluation.conditions`).
        k: documents a question, at most.
        retrieval: `gold` gives each question its own documents (the first k of its gold ids);
            `retriever` searches for them.
        seed: of samples, controls and the bootstrap.
        chunk: questions answered between two writes; an interruption loses at most these.
    """

    conditions: tuple[str, ...] = ("closed_book", "in_context", "parametric", "combine", SHUFFLED)
    k: int = 3
    retrieval: Literal["gold", "retriever"] = "retriever"
    seed: int = 0
    chunk: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for unknown or repeated conditions and values out of range."""
        most = max((parse_condition(condition).k for condition in self.conditions), default=0)
        # Answers of one condition are one file: a second one of the name would find it full.
        if not self.conditions or len({*self.conditions}) != len(self.conditions):
            raise ValueError(
                f"got conditions {list(self.conditions)}, expected one or more different ones"
            )
        if self.retrieval not in ("gold", "retriever"):
            # A type checker sees it; the library's callers may have none.
            raise ValueError(f"got retrieval {self.retrieval!r}, expected gold or retriever")
        if self.k < 1 or self.chunk < 1:
            raise ValueError(f"got k {self.k} and chunk {self.chunk}, expected 1 or more of both")
        if most > self.k:
            raise ValueError(
                f"got a condition of the first {most} documents with k {self.k}, expected no more "
                "than k: raise k, or lower what stands behind the @"
            )
