"""Choices: questions and documents go in, how well a model chooses with their adapters comes out.

General ability, without a benchmark's data: multiple choice by likelihood. Of four answers the
model chooses the one that it finds most likely per token, closed-book: the golden one, or one of
three golden answers of other questions that are of its kind (see `answer_kinds`). The adapter is
that of a document which does not hold the answer, so that it should make no difference. Chance is
a quarter. It is no published task: it compares a model with itself, and says nothing of others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import load_question_set
from prag_core.corpus.questions import Question
from prag_core.evaluation.answer_kinds import AnswerPool, within
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, Bootstrap, document_groups
from prag_core.evaluation.likelihood import answer_sequences, mean_nll
from prag_core.evaluation.unrelated import meant
from prag_core.model.base_model import BaseModel
from prag_core.model.wordings import DEFAULT, Wording
from prag_core.pipeline.rag import ParametricRAG

ANSWERS = 4


@dataclass(frozen=True)
class Choices:
    """Questions with `ANSWERS` answers each, the golden one among them.

    Attributes:
        name: of the set.
        questions: what is asked.
        answers: of each, in random order.
    """

    name: str
    questions: tuple[Question, ...]
    answers: tuple[tuple[str, ...], ...]

    def owners(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents whose adapters are attached, one a question."""
        return [self._owner(number, documents) for number in range(len(self.questions))]

    def _owner(self, number: int, documents: Sequence[Document]) -> Document:
        question = self.questions[number]
        for step in range(len(documents)):  # the next one that does not hold the answer
            document = documents[(number + step) % len(documents)]
            text = f"{document.title} {document.text}"
            if not any(within(answer, text) for answer in question.golden_answers):
                return document
        raise ValueError(
            f"got no document without an answer to {question.question!r}, expected one whose "
            "adapter is unrelated: name other choices"
        )

    def measure(self, rag: ParametricRAG, documents: Sequence[Document], seed: int) -> dict:
        """Return the accuracy without and with adapters, their paired difference, and chance."""
        least = rag.answerer.options.least_relevance
        adapters = [rag.adapter(document.id) for document in self.owners(documents)]
        wording = rag.answerer.adapted_wording(adapters)  # one, so that adapters alone differ
        plain = self.chosen(rag.base, wording)
        adapted = self.chosen(rag.base, wording, adapters, least)
        right, still = (self._right(places) for places in (plain, adapted))
        bootstrap = Bootstrap(document_groups(self.questions), seed)
        return {
            "questions": len(self.questions),
            "chance": 1 / ANSWERS,
            "plain": asdict(bootstrap.mean(right)),
            "adapted": asdict(bootstrap.mean(still)),
            "difference": asdict(bootstrap.difference(still, right)),
            "changed": asdict(bootstrap.mean(plain != adapted)),
        }

    def chosen(
        self,
        base: BaseModel,
        wording: Wording = DEFAULT,
        adapters: Sequence[Adapter] | None = None,
        least: float = 0.0,
    ) -> np.ndarray:
        """Return the place of the most likely answer of every question, (N,)."""
        asked = [
            replace(question, golden_answers=(answer,))
            for question, answers in zip(self.questions, self.answers, strict=True)
            for answer in answers
        ]
        sequences = answer_sequences(base, asked, [()] * len(asked), wording)

        def load(row: int) -> Adapter | None:
            number = row // ANSWERS
            return meant(base, adapters[number], self.questions[number].question, least)

        losses = mean_nll(base, sequences, range(len(asked)) if adapters else None, load)
        return np.array(losses).reshape(-1, ANSWERS).argmin(1)  # (N * 4,) -> (N,)

    def _right(self, places: np.ndarray) -> np.ndarray:
        golden = [
            answers.index(question.golden_answers[0])
            for question, answers in zip(self.questions, self.answers, strict=True)
        ]
        return (places == np.array(golden)).astype(float)


def draw_choices(source: str, count: int, seed: int) -> Choices:
    """Draw questions, with three other answers each, of a question set.

    Raises:
        ValueError: too few questions with enough other answers for an interval.
    """
    whole = load_question_set(source)
    pool = AnswerPool(whole.questions)
    questions, answers = [], []
    for question in random.Random(seed).sample(whole.questions, len(whole.questions)):
        if len(questions) == count:
            break
        others = pool.others(question, ANSWERS - 1, seed) if question.golden_answers else []
        if len(others) == ANSWERS - 1:
            row = [question.golden_answers[0], *others]
            # No answer stands first by rule: where two are as likely, the first is chosen.
            answers.append(tuple(random.Random(f"{seed} {question.id}").sample(row, ANSWERS)))
            questions.append(question)
    if len(questions) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(questions)} questions of {source} with {ANSWERS - 1} other answers of their "
            f"kind, expected {SMALLEST_SAMPLE} or more: raise texts, or name a larger set"
        )
    return Choices(whole.name, tuple(questions), tuple(answers))
