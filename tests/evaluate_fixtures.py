"""A stub pipeline and its question set, for the tests of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from prag_core.datasets import Question, QuestionSet
from prag_core.documents import Document
from prag_core.evaluate import EvaluationOptions
from prag_core.retrieval import Hit


@dataclass(frozen=True)
class Answer:
    question: str
    text: str
    mode: str
    documents: tuple[Hit, ...]


def town_set(count: int = 12) -> QuestionSet:
    """One document and one question a town."""
    documents = tuple(Document(f"The mayor of town{i} is Mayor{i}.") for i in range(count))
    questions = tuple(
        Question(f"q{i}", f"Who is mayor of town{i} ?", (f"Mayor{i}",), (document.id,))
        for i, document in enumerate(documents)
    )
    return QuestionSet("towns", documents, questions)


class StubRag:
    """Answers with the last word of its first document; knows nothing without one."""

    def __init__(self, question_set: QuestionSet, fail_after: int | None = None) -> None:
        self.documents = {d.id: d for d in question_set.documents}
        self.asked: list[tuple[str, str]] = []
        self.calls = 0
        self.fail_after = fail_after

    def retrieve(self, questions, k):
        """Rank documents by common words."""
        rows = []
        for question in questions:
            common = {i: len({*question.split()} & {*d.text.split()}) for i, d in self._items()}
            best = sorted(common, key=lambda i: -common[i])[:k]
            rows.append([Hit(i, float(common[i])) for i in best])
        return rows

    def _items(self):
        return self.documents.items()

    def answer(self, questions, mode, k, document_ids=None, scores=None):
        """Answer, or raise as a killed process would."""
        assert mode in ("closed_book", "in_context", "da_rag", "parametric", "combine", "sft")
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += [(mode, question) for question in questions]
        if mode in ("closed_book", "sft"):
            return [Answer(q, "nobody", mode, ()) for q in questions]
        rows = self.retrieve(questions, k)
        if document_ids is not None:
            assert len(document_ids) == len(questions)
            rows = [[Hit(i, 1.0) for i in ids] for ids in document_ids]
        texts = [self.documents[row[0].document_id].text.split()[-1] for row in rows]
        return [
            Answer(q, t, mode, tuple(r)) for q, t, r in zip(questions, texts, rows, strict=True)
        ]


def options(*modes: str, **changes) -> EvaluationOptions:
    settings = {"modes": modes or ("parametric",), "k": 1, "retrieval": "gold", "chunk": 5}
    return EvaluationOptions(**(settings | changes))
