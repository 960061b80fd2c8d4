"""Multiple choice by likelihood: whose adapter is attached, and what is chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prag_core.adapters.merge import merge
from prag_core.corpus.documents import Document
from prag_core.corpus.questions import Question
from prag_core.evaluation.unrelated import Choices, draw_choices
from prag_core.pipeline.rag import ParametricRAG
from prag_core.training.loop import mean_nll
from prag_core.training.sequences import answer_sequences
from tests.fixtures.hypernetworks import DOCUMENTS, parametrizer
from tests.fixtures.question_sets import write

CITIES = ("Oslo", "Rome", "Lima", "Bern", "Riga", "Cairo")


@pytest.fixture
def choices(tmp_path):
    records = [
        {"id": f"q{n}", "question": f"In what city was p{n} born?", "golden_answers": [city]}
        for n, city in enumerate(CITIES)
    ]
    write(tmp_path / "set" / "questions.jsonl", records)
    return draw_choices(str(tmp_path / "set"), 9, 0)


def test_every_question_has_its_golden_answer_and_three_of_its_kind(choices):
    assert len(choices.questions) == 6
    places = set()
    for question, answers in zip(choices.questions, choices.answers, strict=True):
        assert len({*answers}) == 4 and {*answers} < {*CITIES}
        places.add(answers.index(question.golden_answers[0]))
    assert len(places) > 1  # not always the first


def test_too_few_questions_are_refused(tmp_path):
    record = {"id": "q", "question": "Who?", "golden_answers": ["Ada"]}
    write(tmp_path / "few" / "questions.jsonl", [record])
    with pytest.raises(ValueError, match="got 0 questions"):
        draw_choices(str(tmp_path / "few"), 9, 0)


def test_the_most_likely_answer_is_chosen(choices, tiny_base):
    for place, (question, answers) in enumerate(
        zip(choices.questions, choices.answers, strict=True)
    ):
        asked = [Question("", question.question, (answer,)) for answer in answers]
        losses = mean_nll(tiny_base, answer_sequences(tiny_base, asked, [()] * 4))
        assert choices.chosen(tiny_base)[place] == np.argmin(losses)


def test_adapters_are_of_documents_that_do_not_hold_the_answer():
    documents = [Document("Rome is old."), Document("Oslo is cold."), Document("Bern is far.")]
    asked = Question("q", "Where?", ("Oslo",)), Question("p", "Where?", ("Oslo", "Bern"))
    choices = Choices("set", asked * 2, ((),) * 4)
    places = [documents.index(document) for document in choices.owners(documents)]
    assert places == [0, 0, 2, 0]
    with pytest.raises(ValueError, match="got no document without an answer"):
        choices.owners(documents[1:2])


def test_measured_with_and_without_adapters(choices, tiny_base, tmp_path, monkeypatch):
    made = parametrizer(tiny_base, tmp_path / "network")
    rag = ParametricRAG(tiny_base, parametrizer=made, store=tmp_path / "store")
    rag.add_documents(DOCUMENTS)
    # Strong ones: random adapters of weight 1 hardly change a tiny model's choices.
    strong = {d.id: merge([rag.adapter(d.id)], [50.0]) for d in DOCUMENTS}
    monkeypatch.setattr(rag, "adapter", strong.__getitem__)
    found = json.loads(json.dumps(choices.measure(rag, DOCUMENTS[:2], 0)))
    owners = [rag.adapter(d.id) for d in choices.owners(DOCUMENTS[:2])]
    golden = [a.index(q.golden_answers[0]) for q, a in
              zip(choices.questions, choices.answers, strict=True)]  # fmt: skip
    before, after = choices.chosen(tiny_base), choices.chosen(tiny_base, adapters=owners)
    assert found["questions"] == 6 and found["chance"] == 0.25
    assert found["plain"]["mean"] == pytest.approx(np.mean(before == golden))
    assert found["adapted"]["mean"] == pytest.approx(np.mean(after == golden))
    assert found["changed"]["mean"] == pytest.approx(np.mean(before != after)) != 0
    assert (choices.chosen(tiny_base, adapters=owners, least=1e9) == before).all()  # none is meant
