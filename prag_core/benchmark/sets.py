"""Question sets of a benchmark: a source goes in, the questions that a group asks come out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from prag_core.benchmark.options import BenchmarkSet, Group
from prag_core.corpus.documents import Document, read_documents
from prag_core.corpus.question_sets import QuestionSet, load_question_set
from prag_core.corpus.questions import Question
from prag_core.retrieval.bm25 import Hit, Retriever, make_retriever


@dataclass(frozen=True)
class Asked:
    """The questions of a group over their corpus.

    Attributes:
        question_set: questions and documents.
        total: ids of the questions that count for the total, all unless `per_type` is set.
        source: all documents of the source, those that were not drawn too.
    """

    question_set: QuestionSet
    total: frozenset[str]
    source: tuple[Document, ...]

    def rows(self) -> list[dict]:
        """Return {id, type, total} of every question, as it is kept beside the answers."""
        return [
            {"id": q.id, "type": sub_task(q), "total": q.id in self.total}
            for q in self.question_set.questions
        ]


class KeptHits:
    """A retriever that searches once for a question, however many modes and models ask it."""

    def __init__(self, inner: Retriever) -> None:
        """Search in `inner`."""
        self._inner = inner
        self._hits: dict[tuple[str, int], list[Hit]] = {}

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._inner)

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents, which may change every answer."""
        documents = list(documents)
        if documents:
            self._hits.clear()
            self._inner.add(documents)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents, which may change every answer."""
        self._hits.clear()
        self._inner.delete(document_ids)

    def get(self, document_id: str) -> Document:
        """Return a document by its id."""
        return self._inner.get(document_id)

    def retrieve(self, questions: Sequence[str], k: int = 3) -> list[list[Hit]]:
        """Return the k best documents of each question."""
        new = list(dict.fromkeys(q for q in questions if (q, k) not in self._hits))
        found = self._inner.retrieve(new, k) if new else []
        self._hits |= {(q, k): hits for q, hits in zip(new, found, strict=True)}
        return [self._hits[question, k] for question in questions]


class Sets:
    """Loads every source and every corpus once, and keeps the retriever of the last corpus."""

    def __init__(self, skip_bad: bool = False) -> None:
        """Load nothing yet.

        Args:
            skip_bad: leave out bad records and questions whose gold documents are missing.
        """
        self.skip_bad = skip_bad
        self._loaded: dict[tuple[str, str, str], QuestionSet | Exception] = {}
        self._corpora: dict[str, tuple[Document, ...]] = {}
        self._retriever: tuple[Sequence[Document], Retriever] | None = None

    def ask(self, group: Group) -> Asked:
        """Choose the group's questions; raises as `load_question_set` and `QuestionSet.sample`."""
        spec = group.spec
        whole = source = self._load(spec)
        if spec.documents:
            whole = source.sample(spec.documents, group.seed, spec.keep_corpus)
        questions, total = choose(whole.questions, spec, group.seed, group.limit)
        documents = whole.documents
        if spec.retrieval == "gold" and not spec.keep_corpus:
            asked = {gold_id for question in questions for gold_id in question.gold_ids}
            documents = tuple(d for d in documents if d.id in asked)
        chosen = QuestionSet(spec.label, documents, tuple(questions))
        return Asked(chosen, frozenset(total), source.documents)

    def retriever(self, documents: Sequence[Document], name: str) -> Retriever:
        """Return a retriever over these documents; the last one again where they are the same."""
        if self._retriever is None or self._retriever[0] is not documents:
            ordered = sorted(documents, key=lambda document: document.id)  # as the pipeline does
            self._retriever = (documents, KeptHits(make_retriever(name, ordered)))
        return self._retriever[1]

    def _load(self, spec: BenchmarkSet) -> QuestionSet:
        key = (spec.source, spec.split, spec.corpus)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._read(spec)
            except (OSError, ValueError) as error:  # told again, instead of asking the hub again
                self._loaded[key] = error
        found = self._loaded[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self, spec: BenchmarkSet) -> QuestionSet:
        found = load_question_set(spec.source, spec.split, skip_bad=self.skip_bad)
        if spec.corpus:
            if spec.corpus not in self._corpora:
                self._corpora[spec.corpus] = tuple(read_documents(spec.corpus, self.skip_bad))
            found = replace(found, documents=self._corpora[spec.corpus])
        if not found.documents:
            raise ValueError(
                f"got no documents with {spec.source}, expected a corpus to search: set `corpus` "
                f"of {spec.label}"
            )
        return found


def choose(
    questions: Sequence[Question], spec: BenchmarkSet, seed: int, limit: int = 0
) -> tuple[list[Question], set[str]]:
    """Choose questions in the set's order, and the ids that count for the total.

    With a limit, the choice is a part of the one without.

    Args:
        questions: the whole set.
        spec: how many, and how they are chosen.
        seed: of a drawn sample.
        limit: at most so many (with `per_type`: so many of every sub-task); 0 for no limit.
    """
    if spec.per_type:
        count, seen, chosen = min(spec.per_type, limit or spec.per_type), {}, []
        for question in questions:
            seen[sub_task(question)] = seen.get(sub_task(question), 0) + 1
            if seen[sub_task(question)] <= count:
                chosen.append(question)
        return chosen, {question.id for question in questions[:count]}
    if spec.first:
        chosen = list(questions[: min(spec.first, limit or spec.first)])
    else:
        chosen = _sample(_sample(questions, spec.questions, seed), limit, seed)
    return chosen, {question.id for question in chosen}


def _sample(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    if not 0 < count < len(questions):
        return list(questions)
    drawn = random.Random(seed).sample(range(len(questions)), count)
    return [questions[index] for index in sorted(drawn)]


def sub_task(question: Question) -> str:
    """Return the sub-task of a question, empty where its set has none."""
    return str(question.metadata.get("type", ""))
