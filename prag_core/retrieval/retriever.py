"""The protocol that every retriever meets, and the record that it returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prag_core.corpus.documents import Document, as_documents


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

    def __len__(self) -> int:
        """Number of documents."""
        ...


class DocumentsById:
    """The documents of an index, in order of adding; what holds vectors or tokens asks it first."""

    def __init__(self) -> None:
        self.all: dict[str, Document] = {}

    def __len__(self) -> int:
        return len(self.all)

    def add(self, documents: Iterable[Document]) -> bool:
        """Add documents; those already there are kept once. Says whether any is new."""
        before = len(self.all)
        for document in as_documents(documents):
            self.all.setdefault(document.id, document)
        return len(self.all) > before

    def delete(self, document_ids: Iterable[str]) -> set[str]:
        """Remove documents and return their ids.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        removed = self.require(document_ids)
        for document_id in removed:
            del self.all[document_id]
        return removed

    def require(self, document_ids: Iterable[str]) -> set[str]:
        """Return ids, each once; ValueError for one that is not there."""
        removed = set(document_ids)
        if unknown := removed - self.all.keys():
            raise ValueError(
                f"got document id {min(unknown)!r}, expected one of the {len(self)} documents of "
                "the retriever: add the document first"
            )
        return removed


def check_questions(questions: Sequence[str], k: int) -> None:
    """Raise ValueError for k below 1, or one string instead of a sequence of questions."""
    if k < 1:
        raise ValueError(f"got k {k}, expected 1 or more documents a question: raise k")
    if isinstance(questions, str):
        raise ValueError("got one string, expected a list of questions: pass [question]")
