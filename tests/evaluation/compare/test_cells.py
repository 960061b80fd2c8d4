"""Cells of made-up answers: what is left out, what is read from them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.compare.cells import (
    Cells,
    disagreements,
    merge_conditions,
    merging,
    possible,
    quality,
)
from prag_core.evaluation.evaluate import scored
from prag_core.evaluation.results import summarise

DOCUMENTS = [Document(f"Text {n}.", f"title {n}") for n in range(6)]
QUESTIONS = [
    Question(f"q{n}", f"What is {n}?", (f"thing {n}",), (DOCUMENTS[n // 2].id,)) for n in range(12)
]
PREDICTIONS = {  # condition -> questions answered right
    "closed_book": (0,),
    "trained/parametric": range(4),
    "generated/parametric": range(2, 12),
    "generated/gold+1:ones": range(6),
}


@dataclass
class Pipeline:
    """What `possible` looks at."""

    parametrizer: object
    augmenter: object = None
    reader: object = None


class Trainer:
    def train_global(self) -> None: ...


def answer(question: Question, right: bool) -> dict:
    record = scored(question, question.golden_answers[0] if right else "no", 0.5)
    return record | {"documents": [{"id": i} for i in question.gold_ids]}


@pytest.fixture(scope="module")
def cells() -> Cells:
    answers = {
        name: {q.id: answer(q, n in right) for n, q in enumerate(QUESTIONS)}
        for name, right in PREDICTIONS.items()
    }
    reports = {
        path: summarise(
            "set",
            QUESTIONS,
            {n.split("/")[-1]: a for n, a in answers.items() if n.split("/")[0] in (n, path)},
            seed=0,
        )
        for path in ("trained", "generated")
    }
    return Cells(QuestionSet("set", tuple(DOCUMENTS), tuple(QUESTIONS)), reports, answers)


def test_shared_conditions_stand_once_and_paths_have_their_own(cells):
    part = quality(cells, seed=0)
    assert set(part["conditions"]) == set(PREDICTIONS)
    containment = {n: c["metrics"]["containment"]["mean"] for n, c in part["conditions"].items()}
    assert containment["trained/parametric"] == pytest.approx(4 / 12)
    assert part["conditions"]["closed_book"]["n"] == 12
    assert set(part["differences"]) == {
        "parametric/generated - trained",
        "trained/parametric - closed_book",
        "generated/parametric - closed_book",
    }
    between = part["differences"]["parametric/generated - trained"]["containment"]
    assert between["mean"] == pytest.approx(6 / 12)
    assert between["low"] < 6 / 12 < between["high"] and 0 < between["p"] < 1
    assert "generated/gold+1:ones / parametric" in part["ratios"]


def test_disagreements_are_those_that_one_path_answers_right(cells):
    cases = disagreements(cells)
    assert [case["question"] for case in cases] == [
        QUESTIONS[n].question for n in (0, 1, *range(4, 12))
    ]
    assert cases[0]["contained"] == {"trained": 1.0, "generated": 0.0}
    assert cases[0]["answers"] == {"trained": "thing 0", "generated": "no"}
    assert cases[0]["document"] == "title 0"
    one = Cells(cells.question_set, {"trained": cells.reports["trained"]}, cells.answers)
    assert disagreements(one) is None


def test_series_of_merging_begin_alike(cells):
    series = merge_conditions([1, 3], ["ones", "relative"])
    assert series == {
        "in_context": ["in_context", "in_context+2"],
        "ones": ["gold", "gold+2:ones"],
        "relative": ["gold", "gold+2:relative"],
    }


def test_points_of_merging_are_the_cells(cells):
    read = ("in_context", "in_context+1", "gold", "gold+1:ones")
    own = {name: cells.answers["generated/parametric"] for name in read}
    own["gold+1:ones"] = cells.answers["trained/parametric"]
    report = summarise("set", QUESTIONS, own, seed=0)
    part = merging(Cells(cells.question_set, {"generated": report}), [1, 2], ["ones"])
    assert (part["k"], part["n"]) == ([1, 2], 12)
    means = {name: [p["mean"] for p in points.values()] for name, points in part["series"].items()}
    assert means["in_context"] == pytest.approx([10 / 12] * 2)
    assert means["generated/ones"] == pytest.approx([10 / 12, 4 / 12])


def test_what_a_path_cannot_do_is_left_out_with_a_note():
    names = ("closed_book", "da_rag", "da_rag@1", "sft", "shuffled")
    generated = {"generated": Pipeline(object())}
    left, notes = possible(generated, names, documents=1, k=1)
    assert left == ("closed_book",)
    assert [note.split(" is left out")[0] for note in notes] == [*names[1:]]
    assert possible(generated, ("mean",), documents=2, k=1) == (("mean",), [])
    both = generated | {"trained": Pipeline(Trainer(), augmenter=object())}
    assert possible(both, names, documents=2, k=1) == (names, [])
    names = ("kv_cache", "kv_cache@1", "kv_cache:prompt:short", "reader")
    left, notes = possible(generated, names, documents=2, k=3)
    assert left == ("kv_cache@1",) and "k is 3" in notes[0] and "--reader" in notes[2]
    reading = {"generated": Pipeline(object(), reader=object())}
    assert possible(reading, names, documents=2, k=1) == (names, [])
