"""The protocol that every retriever meets, and the record that it returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prag_core.corpus.documents import Document


@dataclass(frozen=True)
class Hit:
    """A retrieved document and its score (higher is better)."""

    document_id: str
    score: float


class Retriever(Protocol):
    """Finds documents for questions; every retriever meets this."""

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those already there are kept once."""
        ...

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents."""
        ...

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k best documents of each question, best first (all, if there are fewer).

        Args:
            questions: plain questions.
            k: documents a question.
            among: ids of the only documents that may be returned; None: all.
        """
        ...

    def get(self, document_id: str) -> Document:
        """Return a document by its id."""
        ...

    def __len__(self) -> int:
        """Number of documents."""
        ...
