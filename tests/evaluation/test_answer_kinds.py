"""What kind of answer an answer is, and which others may stand in for it."""

from __future__ import annotations

import pytest

from prag_core.corpus.questions import Question
from prag_core.evaluation.answer_kinds import AnswerPool, answer_kind, shape


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("When did he die?", "14 March 1879", "date"),
        ("When?", "the 1990s", "date"),
        ("How many?", "3,200 miles", "number"),
        ("How many?", "Twelve apples", "number"),
        ("Who wrote it?", "Ada Brandt", "person"),
        ("In what city was he born?", "New York City", "place"),
        ("Which ship was it?", "The Beagle", "name"),
        ("What is her occupation?", "politician", "phrase"),
        ("Where does it live?", "under stones", "phrase"),
    ],
)
def test_kinds(question, answer, kind):
    assert answer_kind(question, answer) == kind


@pytest.mark.parametrize(
    ("answer", "form"),
    [("14 March 1879", "00 M 0000"), ("New York City", "A A A"), ("in 1066", "a 0000")],
)
def test_shapes(answer, form):
    assert shape(answer) == form


def asked(*answers: str) -> list[Question]:
    return [Question(f"q{n}", "In what city was he born?", (a,)) for n, a in enumerate(answers)]


def test_others_are_of_the_kind_and_shape_and_have_nothing_in_common():
    questions = asked("Oslo", "Rome", "New Oslo", "Lima", "1950", "Bern", "South Bern")
    pool = AnswerPool([*questions, Question("p", "Who?", ("Ada",)), Question("n", "What?", ())])
    drawn = pool.others(questions[0], 9, seed=0, texts="He liked Lima.")
    assert sorted(drawn) == ["Bern", "Rome"]  # "South Bern" holds "Bern", Lima is in the text
    assert pool.others(questions[0], 9, 0, "He liked Lima.") == drawn
    assert {*pool.others(questions[2], 1, seed=1)} == {"South Bern"}  # two words for two words
    draws = {pool.others(questions[0], 1, seed)[0] for seed in range(20)}
    assert draws == {"Rome", "Lima", "Bern"}
