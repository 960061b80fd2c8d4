"""Hybrid retrieval: the ranks of two retrievers go in, one ranking comes out.

Reciprocal rank fusion (Cormack et al., 2009): the score of document d is

    (C + 1) / 2 * sum over retrievers r of 1 / (C + rank_r(d)),   C = 60, ranks from 1

The factor makes it 1 for a document that both rank first; one that only one of them returns has at
most 0.5. Scores tell how much the two agree, not how well a document fits: those of neighbouring
ranks hardly differ, so the merge weights `relative` and `score` are near 1 for all documents that
both return, where BM25's fall with the fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from prag_core.corpus.documents import Document, as_documents
from prag_core.retrieval.retriever import Hit, Retriever

C = 60
DEPTH = 100  # documents of each retriever that are fused, or k where that is more


class HybridRetriever:
    """Fuses two retrievers over the same documents, one by words and one by meaning."""

    def __init__(
        self, words: Retriever, meaning: Retriever, documents: Iterable[Document] = ()
    ) -> None:
        """Take two retrievers without documents, and the documents.

        Args:
            words: its order decides where scores are equal; what it scores 0 is no match.
            meaning: the other one.
            documents: the first documents.
        """
        self._words, self._meaning = words, meaning
        self.add(documents)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._words)

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those already there are kept once."""
        documents = as_documents(documents)
        self._words.add(documents)
        self._meaning.add(documents)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        document_ids = list(document_ids)
        self._words.delete(document_ids)  # refuses before the other one is changed
        self._meaning.delete(document_ids)

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k best documents of each question, of those that either retriever returns.

        Args:
            questions: plain questions.
            k: documents a question.
            among: ids of the only documents that may be returned; None: all.

        Raises:
            ValueError: k below 1, or one string instead of a sequence of questions.
        """
        depth = max(k, DEPTH) if k > 0 else k  # the retrievers refuse others
        words = self._words.retrieve(questions, depth, among)
        meaning = self._meaning.retrieve(questions, depth, among)
        words = [[hit for hit in row if hit.score > 0] for row in words]
        return [_fuse(pair)[:k] for pair in zip(words, meaning, strict=True)]


def _fuse(rankings: Iterable[Sequence[Hit]]) -> list[Hit]:
    """Return all documents of the rankings by fused score; of equal ones the first seen first."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.document_id] = scores.get(hit.document_id, 0.0) + (C + 1) / 2 / (C + rank)
    best = sorted(scores, key=lambda document_id: -scores[document_id])  # stable
    return [Hit(document_id, scores[document_id]) for document_id in best]
