"""Retrieval: questions go in, for each the k best documents by BM25 come out.

Score of document d for question q, with f the frequency of a token in d (Lucene's variant):

    sum over tokens t of q:  idf(t) * f / (f + k1 (1 - b + b |d| / mean |d|))
    idf(t) = log(1 + (N - n_t + 0.5) / (n_t + 0.5)),  n_t the number of documents with t

Two engines compute it: rank_bm25, and bm25s for large corpora. Both rank alike.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from rank_bm25 import BM25Okapi

from prag_core.corpus.documents import Document, as_documents
from prag_core.retrieval.analyzer import analyze
from prag_core.retrieval.retriever import Hit

K1, B = 1.5, 0.75
BM25S_ABOVE = 20_000  # documents; rank_bm25 takes over 30 ms a question from here on
ENGINES = ("auto", "bm25", "bm25s")
DECIMALS = 5  # scores are rounded, so that ties do not depend on the order of a sum
Tokens: TypeAlias = "array[int]"  # token numbers of a document
Scorer = Callable[[list[int]], np.ndarray]  # token numbers of a question -> scores (N,)


class BM25Retriever:
    """BM25 over title and text; the index is rebuilt by itself after `add` and `delete`."""

    def __init__(self, documents: Iterable[Document] = (), engine: str = "auto") -> None:
        """Take the documents; indexing waits for the first question.

        Args:
            documents: the first documents; equal ones are kept once.
            engine: `bm25`, `bm25s`, or `auto`, which decides by the number of documents.

        Raises:
            ValueError: an unknown engine.
        """
        if engine not in ENGINES:
            raise ValueError(f"got retriever {engine!r}, expected one of {', '.join(ENGINES)}")
        self._engine = engine
        self._documents: dict[str, Document] = {}
        self._tokens: dict[str, Tokens] = {}  # document id -> token numbers, made when indexed
        self._vocabulary: dict[str, int] = {}
        self._ids: list[str] = []
        self._scorer: Scorer | None = None
        self.add(documents)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._documents)

    @property
    def engine(self) -> str:
        """The engine that answers at the present number of documents."""
        if self._engine != "auto":
            return self._engine
        return "bm25s" if len(self) > BM25S_ABOVE else "bm25"

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those already there are kept once."""
        before = len(self)
        for document in as_documents(documents):
            self._documents.setdefault(document.id, document)
        if len(self) > before:
            self._scorer = None

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        document_ids = set(document_ids)
        for document_id in document_ids:
            self.get(document_id)
        for document_id in document_ids:
            del self._documents[document_id]
            self._tokens.pop(document_id, None)
            self._scorer = None

    def get(self, document_id: str) -> Document:
        """Return a document by its id.

        Raises:
            ValueError: no such document.
        """
        if document_id not in self._documents:
            raise ValueError(
                f"got document id {document_id!r}, expected one of the {len(self)} documents of "
                "the retriever: add the document first"
            )
        return self._documents[document_id]

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k best documents of each question, best first (all, if there are fewer).

        Of documents with equal scores, the one added first comes first. Scores are those of the
        whole index, whatever `among` says.

        Args:
            questions: plain questions.
            k: documents a question.
            among: ids of the only documents that may be returned; None: all.

        Raises:
            ValueError: k below 1, or one string instead of a sequence of questions.
            ImportError: the engine is bm25s and it is not installed.
        """
        if k < 1:
            raise ValueError(f"got k {k}, expected 1 or more documents a question: raise k")
        if isinstance(questions, str):
            raise ValueError("got one string, expected a list of questions: pass [question]")
        if not self._documents:
            return [[] for _ in questions]
        if self._scorer is None:
            rows = self._index_rows()
            self._scorer = self._bm25s(rows) if self.engine == "bm25s" else _okapi(rows)
        allowed = np.arange(len(self._ids))  # places in the index
        if among is not None:
            wanted = set(among)
            allowed = np.array([i for i in allowed if self._ids[i] in wanted], dtype=np.int64)
        return [self._best(self._scorer, analyze(q), k, allowed) for q in questions]

    def _index_rows(self) -> list[Tokens]:
        """Return the token numbers of all documents; only new documents are analyzed."""
        numbers = self._vocabulary
        for document_id, document in self._documents.items():
            if document_id not in self._tokens:
                tokens = analyze(f"{document.title}\n{document.text}")
                row = array("i", (numbers.setdefault(t, len(numbers)) for t in tokens))
                self._tokens[document_id] = row
        self._ids = list(self._documents)
        return [self._tokens[document_id] for document_id in self._ids]

    def _best(self, scorer: Scorer, tokens: list[str], k: int, allowed: np.ndarray) -> list[Hit]:
        if not len(allowed):
            return []
        known = [self._vocabulary[token] for token in tokens if token in self._vocabulary]
        # float64 whatever the engine computes in
        scores = np.round(np.asarray(scorer(known), np.float64), DECIMALS)[allowed]  # (allowed,)
        cut = max(len(scores) - k, 0)
        candidates = np.flatnonzero(scores >= np.partition(scores, cut)[cut])  # in order of adding
        best = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
        return [Hit(self._ids[allowed[i]], float(scores[i])) for i in best]

    def _bm25s(self, rows: list[Tokens]) -> Scorer:
        index = _bm25s().BM25(k1=K1, b=B, method="lucene")
        if not any(rows):
            return lambda tokens: np.zeros(len(rows))
        index.index((rows, dict(self._vocabulary)), show_progress=False)
        scorer: Scorer = index.get_scores_from_ids
        return scorer


def _okapi(rows: list[Tokens]) -> Scorer:
    """Score with rank_bm25; its idf, not positive for frequent words, is replaced by Lucene's."""
    if not any(rows):
        return lambda tokens: np.zeros(len(rows))
    index = BM25Okapi(rows, k1=K1, b=B)
    total = len(rows)
    frequencies = Counter(token for row in index.doc_freqs for token in row)
    # rank_bm25 multiplies by k1 + 1, Lucene does not
    index.idf = {
        token: math.log(1 + (total - n + 0.5) / (n + 0.5)) / (K1 + 1)
        for token, n in frequencies.items()
    }
    scorer: Scorer = index.get_scores
    return scorer


def _bm25s() -> Any:  # the module carries no types
    try:
        import bm25s
    except ImportError as error:
        raise ImportError(
            f"bm25s is not installed; it is needed for `bm25s`, and for more than "
            f"{BM25S_ABOVE:,} documents: pip install 'prag[bm25s]', or choose the retriever `bm25`"
        ) from error
    return bm25s
