"""Retrieval: questions go in, for each the k best documents by BM25 come out.

Score of document d for question q, with f the frequency of a token in d (Lucene's variant):

    sum over tokens t of q:  idf(t) * f / (f + k1 (1 - b + b |d| / mean |d|))
    idf(t) = log(1 + (N - n_t + 0.5) / (n_t + 0.5)),  n_t the number of documents with t

Two engines compute it: rank_bm25, and bm25s for large corpora. Both rank alike. A document without
any term of the question never comes out.

A question that is foreign to the corpus may still share a common word with it. What tells it apart
is its coverage: the share of the question, by weight of its terms, that one of its documents has.

    coverage(d) = sum over terms of q in d: w(t) / sum over terms of q: w(t)
    w(t) = log((N + PRIOR) / (n_t + 1)), terms that no document has included

Where no document of the k best has the least coverage, none comes out. It is asked of the question
as a whole: documents that a multi-hop question hardly names come out beside one that it names. The
more documents, the more of a question one of them has by chance, about linearly in log N:

    least(N) = least_coverage * min(1, 1/4 + log(N) / 10),  the whole of it from 1,800 documents on
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from rank_bm25 import BM25Okapi

from prag_core.corpus.documents import Document
from prag_core.retrieval.analyzer import STOP_SET, Terms, analyze
from prag_core.retrieval.retriever import DocumentsById, Hit, check_questions

K1, B = 1.5, 0.75
BM25S_ABOVE = 20_000  # documents; rank_bm25 takes over 30 ms a question from here on
ENGINES = ("auto", "bm25", "bm25s")
PIP = "pip install 'prag[bm25s]'"
DECIMALS = 4  # scores are rounded, so that ties do not depend on the order of a sum
LEAST_COVERAGE = 0.19  # the largest that loses no gold document of SQuAD train, found at k = 3
PRIOR = 10  # documents that a small corpus stands for: words that all of its few have count too
MOST_TERMS = 1000  # a longer question (a pasted text) is searched for its rarest terms
Tokens: TypeAlias = "array[int]"  # token numbers of a document
Scorer = Callable[[list[int]], np.ndarray]  # token numbers of a question -> scores (N,)
logger = logging.getLogger(__name__)


class BM25Retriever:
    """BM25 over title and text; the index is rebuilt by itself after `add` and `delete`."""

    def __init__(
        self,
        documents: Iterable[Document] = (),
        engine: str = "auto",
        least_coverage: float = LEAST_COVERAGE,
    ) -> None:
        """Take the documents; indexing waits for the first question.

        Args:
            documents: the first documents; equal ones are kept once.
            engine: `bm25`, `bm25s`, or `auto`, which decides by the number of documents; where
                bm25s is not installed it stays with `bm25` and warns.
            least_coverage: share of a question that one of its documents needs, see above; with 0
                one common term is enough.

        Raises:
            ValueError: an unknown engine, one that is not installed, or a share that is none.
        """
        if engine not in ENGINES:
            raise ValueError(f"got retriever {engine!r}, expected one of {', '.join(ENGINES)}")
        if not 0 <= least_coverage <= 1:
            raise ValueError(f"got least_coverage {least_coverage}, expected a share, 0 to 1")
        if engine == "bm25s":
            _bm25s()  # what is missing is said before anything is done
        self._engine, self._least_coverage = engine, least_coverage
        self._documents = DocumentsById()
        # Document id -> numbers of its terms, as `Terms` has them; made when indexed.
        self._tokens: dict[str, tuple[Tokens, Tokens]] = {}
        self._vocabulary: dict[str, int] = {}
        self._ids: list[str] = []
        self._indexes: dict[bool, _Index] = {}  # of all words, and (True) of weak terms
        self._titles: list[str] | None = None  # those of weak terms alone, else ""; when asked for
        self.add(documents)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._documents)

    @property
    def engine(self) -> str:
        """The engine that answers at the present number of documents."""
        if self._engine != "auto":
            return self._engine
        return "bm25s" if len(self) > BM25S_ABOVE and find_spec("bm25s") else "bm25"

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those already there are kept once."""
        if self._documents.add(documents):
            self._forget_indexes()

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        for document_id in self._documents.delete(document_ids):
            self._tokens.pop(document_id, None)
            self._forget_indexes()

    def _forget_indexes(self) -> None:
        self._indexes.clear()
        self._titles = None

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k best documents of each question, best first; fewer where fewer match.

        Documents with equal scores come in the order of their ids. Scores are those of the whole
        index, whatever `among` says. A question of stop words alone is searched for them.

        Args:
            questions: plain questions.
            k: documents a question.
            among: ids of the only documents that may be returned; None: all.

        Raises:
            ValueError: k below 1, or one string instead of a sequence of questions.
        """
        check_questions(questions, k)
        if not self._documents:
            return [[] for _ in questions]
        self._index(weak=False)  # numbers the documents
        allowed = np.arange(len(self._ids))  # places in the index
        if among is not None:
            wanted = set(among)
            allowed = np.array([i for i in allowed if self._ids[i] in wanted], dtype=np.int64)
        return [self._best(analyze(question), k, allowed) for question in questions]

    def _index(self, weak: bool) -> _Index:
        """Return the index of words or of weak terms; only new documents are analyzed."""
        if weak not in self._indexes:
            for document_id, document in self._documents.all.items():
                if document_id not in self._tokens:
                    words, others = analyze(f"{document.title}\n{document.text}")
                    self._tokens[document_id] = (self._numbers(words), self._numbers(others))
            self._ids = list(self._documents.all)
            rows = [self._tokens[document_id][weak] for document_id in self._ids]
            missing = self._engine == "auto" and self.engine == "bm25" and len(self) > BM25S_ABOVE
            if missing and not weak:  # once
                logger.warning(
                    "got %d documents without bm25s, which is faster above %d: %s",
                    len(self), BM25S_ABOVE, PIP,
                )  # fmt: skip
            self._indexes[weak] = _Index.build(rows, self._vocabulary, self.engine)
        return self._indexes[weak]

    def _named(self, terms: list[str], numbers: list[int], allowed: np.ndarray) -> np.ndarray:
        """Return the places of documents that a question of weak terms may mean.

        Those whose title it says ("Who are The Who?"), the longest; else those with all its terms,
        stop words one behind the other ("To be or not to be?"). Less is no sign: "Who are you?"
        asks for no document that happens to have these three.
        """
        if self._titles is None:
            titles = (analyze(document.title) for document in self._documents.all.values())
            self._titles = ["" if title.words else " ".join(title.weak) for title in titles]
        said = f" {' '.join(terms)} "
        lengths = np.array([
            len(title) if (title := self._titles[place]) and f" {title} " in said else 0
            for place in allowed
        ])  # fmt: skip
        if lengths.any():
            return allowed[np.flatnonzero(lengths == lengths.max())]
        phrase, stop_words = _spaced(numbers), not STOP_SET.isdisjoint(terms)
        if stop_words and len(terms) == 1:  # "Why?"
            return np.array([], dtype=np.int64)
        rows = self._index(weak=True).rows
        whole = [
            place
            for place in allowed
            if set(numbers) <= set(rows[place])
            and (not stop_words or phrase in _spaced(rows[place]))
        ]
        return np.array(whole, dtype=np.int64)

    def _numbers(self, terms: Iterable[str]) -> Tokens:
        numbers = self._vocabulary
        return array("i", (numbers.setdefault(term, len(numbers)) for term in terms))

    def _best(self, question: Terms, k: int, allowed: np.ndarray) -> list[Hit]:
        """Return the documents of one question."""
        weak = not question.words
        index, terms = self._index(weak), question.weak if weak else question.words
        numbers = [self._vocabulary.get(term, -1) for term in terms]
        known = [number for number in numbers if number >= 0 and index.frequencies[number]]
        there = {*known}
        missing = len({t for t, n in zip(terms, numbers, strict=True) if n not in there})
        if len(known) > MOST_TERMS:
            known = sorted(set(known), key=index.frequencies.__getitem__)[:MOST_TERMS]
        if weak and len(allowed):
            allowed = self._named(terms, numbers, allowed)
        if not known or not len(allowed):
            return []
        # float64 whatever the engine computes in
        scores = np.round(np.asarray(index.scorer(known), np.float64), DECIMALS)[allowed]
        cut = max(len(scores) - k, 0)
        least = max(np.partition(scores, cut)[cut], 10**-DECIMALS / 2)  # of the k best that match
        candidates = np.flatnonzero(scores >= least)
        # Ties by id, which are the same in every process and after a restart.
        best = sorted(candidates, key=lambda i: (-scores[i], self._ids[allowed[i]]))[:k]
        if not index.covers(set(known), missing, allowed[best], self._least_coverage):
            return []
        return [Hit(self._ids[allowed[i]], float(scores[i])) for i in best]


@dataclass(frozen=True)
class _Index:
    """Documents as numbers of terms, ready to be scored.

    Attributes:
        rows: the terms of every document.
        frequencies: (V,) number of documents that have a term.
        scorer: the engine.
    """

    rows: list[Tokens]
    frequencies: np.ndarray
    scorer: Scorer

    @classmethod
    def build(cls, rows: list[Tokens], vocabulary: dict[str, int], engine: str) -> _Index:
        frequencies = np.zeros(len(vocabulary), np.int64)
        for row in rows:
            frequencies[list(set(row))] += 1
        if not any(rows):
            return cls(rows, frequencies, lambda tokens: np.zeros(len(rows)))
        if engine == "bm25s":
            index = _bm25s().BM25(k1=K1, b=B, method="lucene")
            index.index((rows, dict(vocabulary)), show_progress=False)
            return cls(rows, frequencies, index.get_scores_from_ids)
        return cls(rows, frequencies, _okapi(rows, frequencies))

    def covers(self, known: set[int], missing: int, places: Iterable[int], least: float) -> bool:
        """Say whether one of these documents has the least share of a question.

        Args:
            known: the question's terms.
            missing: number of its terms that no document has.
            places: of the documents.
            least: the share, see above.
        """
        most = math.log(len(self.rows) + PRIOR)
        weights = {t: most - math.log(self.frequencies[t] + 1) for t in known}
        least *= min(1.0, 0.25 + math.log(len(self.rows)) / 10)
        needed = least * (sum(weights.values()) + missing * most)
        return any(sum(weights[t] for t in known & set(self.rows[p])) >= needed for p in places)


def _spaced(numbers: Iterable[int]) -> str:
    """Write numbers with spaces around each, to look for some of them within others."""
    return f" {' '.join(map(str, numbers))} "


def _okapi(rows: list[Tokens], frequencies: np.ndarray) -> Scorer:
    """Score with rank_bm25; its idf, not positive for frequent words, is replaced by Lucene's."""
    index = BM25Okapi(rows, k1=K1, b=B)
    # rank_bm25 multiplies by k1 + 1, Lucene does not
    idf = np.log(1 + (len(rows) - frequencies + 0.5) / (frequencies + 0.5)) / (K1 + 1)
    index.idf = {int(term): float(idf[term]) for term in np.flatnonzero(frequencies)}
    scorer: Scorer = index.get_scores
    return scorer


def _bm25s() -> Any:  # the module carries no types
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(
            f"got no package bm25s ({error}), expected it for the retriever `bm25s`: {PIP}, or "
            "choose `bm25`"
        ) from error
    return bm25s
