"""Answer kinds: questions with answers go in, other answers of the same kind come out, by rule.

Who stands in for a golden answer must be as likely to a reader who does not know it: a person for
a person, a place for a place, a year for a year. The rules read the question's words and the
answer's letters; what they take for a person may be a team.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from prag_core.augmentation.answer_spans import MONTHS, NUMBER_WORDS, YEAR
from prag_core.corpus.answer_scores import normalise
from prag_core.corpus.questions import Question

PLACES = "where|city|country|state|town|village|capital|continent|river|island|county|region|birth"
PERSONS = "who|whom|whose"
# In this order: the first that matches.
RULES = {
    "date": re.compile(rf"\b(?:{MONTHS})\b.*\d|\d.*\b(?:{MONTHS})\b|\b(?:{YEAR})s?\b"),  # an answer
    "number": re.compile(rf"\d|\b(?:one|{NUMBER_WORDS})\b", re.IGNORECASE),
}
ASKED = {"person": PERSONS, "place": PLACES}  # of answers with a capital


def answer_kind(question: str, answer: str) -> str:
    """Return date, number, person, place, name (another with a capital) or phrase."""
    for kind, pattern in RULES.items():
        if pattern.search(answer):
            return kind
    if not re.search(r"\b[A-Z]", answer):
        return "phrase"
    words = question.lower()
    return next((k for k, asked in ASKED.items() if re.search(rf"\b({asked})\b", words)), "name")


def shape(answer: str) -> str:
    """Return what an answer looks like: digits as 0, months as M, words as A or a."""
    text = re.sub(rf"\b(?:{MONTHS})\b", "M", re.sub(r"\d", "0", answer))
    words = r"[A-Z][\w'’-]*(?<!\bM)|(?<=\b)[a-z][\w'’-]*"
    return re.sub(words, lambda word: "A" if word[0][0].isupper() else "a", text)


def within(part: str, whole: str) -> bool:
    """Tell whether a text stands in another as whole words, both normalised."""
    return f" {normalise(part)} " in f" {normalise(whole)} "


class AnswerPool:
    """The golden answers of a question set, by kind."""

    def __init__(self, questions: Sequence[Question]) -> None:
        """Take the first golden answer of every question."""
        kinds: dict[str, dict[str, str]] = {}
        for question in questions:
            for answer in question.golden_answers[:1]:
                alike = kinds.setdefault(answer_kind(question.question, answer), {})
                alike.setdefault(normalise(answer), answer)
        # {kind: {normalised: as it was first written}}, in the order of the questions.
        self.kinds = kinds

    def others(self, question: Question, count: int, seed: int, texts: str = "") -> list[str]:
        """Draw answers of the kind of a question's own, those most like it in shape first.

        None shares a word with a golden answer, or stands in the question or in `texts`. The draw
        depends on the seed, the question and what there is to draw from.
        """
        first = question.golden_answers[0]
        golden = {w for a in question.golden_answers for w in normalise(a).split()}
        barred = f" {normalise(f'{question.question} {texts}')} "
        candidates = [
            (plain, answer)
            for plain, answer in self.kinds.get(answer_kind(question.question, first), {}).items()
            if plain and golden.isdisjoint(plain.split()) and f" {plain} " not in barred
        ]
        random.Random(f"{seed} {question.id}").shuffle(candidates)
        form, length = shape(first), len(first.split())
        # Stable: among those equally like it the draw decides.
        candidates.sort(key=lambda c: (shape(c[1]) != form, abs(len(c[1].split()) - length)))
        drawn: dict[str, str] = {}
        for plain, answer in candidates:
            if len(drawn) == count:
                break
            if not any(f" {plain} " in f" {p} " or f" {p} " in f" {plain} " for p in drawn):
                drawn[plain] = answer
        return [*drawn.values()]
