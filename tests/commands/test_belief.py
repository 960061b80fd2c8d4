"""`prag belief` on the tiny model, whose every answer holds what it is made to say."""

from __future__ import annotations

import json

import pytest

from prag_core.corpus.question_sets import load_question_set
from prag_core.evaluation.belief import stances
from prag_core.evaluation.results import answers_path, append_answers, read_answers
from tests.fixtures.command_line import run
from tests.fixtures.question_sets import write

CITIES = ("Oslo", "Rome", "Lima", "Bern", "Riga", "Cairo")


@pytest.fixture
def source(tmp_path):
    """Six people with the cities that they were born in."""
    documents = [{"id": f"d{n}", "text": f"p{n} is from {c}."} for n, c in enumerate(CITIES)]
    questions = [
        {"id": f"q{n}", "question": f"In what city was p{n} born?", "golden_answers": [city],
         "gold_ids": [f"d{n}"]}
        for n, city in enumerate(CITIES)
    ]  # fmt: skip
    write(tmp_path / "born" / "questions.jsonl", questions)
    write(tmp_path / "born" / "corpus.jsonl", documents)
    return tmp_path / "born"


def test_a_set_that_contradicts_the_model(source, tmp_path, tiny_folder, capsys):
    to, options = tmp_path / "to", (f"--base_model={tiny_folder}", "--generation.max_new_tokens=2")
    assert run("belief", source, source, *options) == 2  # would replace it
    assert "of another question set, expected a folder" in capsys.readouterr().err
    assert run("belief", source, to, *options) == 2  # the tiny model knows nothing
    assert "got no question whose text could be altered" in capsys.readouterr().err
    path = answers_path(to / "closed_book" / "born", "closed_book")
    records = read_answers(path)
    assert [*records] == [f"q{n}" for n in range(6)]
    path.unlink()  # as if it had known the first three
    for number, record in enumerate(records.values()):
        record["scores"]["containment"] = float(number < 3)
    append_answers(path, [*records.values()])
    assert run("belief", f"[{source}]", to, *options) == 0
    assert "born: 6 questions, 3 right, 3 kept" in capsys.readouterr().out
    about = json.loads((to / "belief.json").read_text())
    assert about["sets"] == {"born": {"questions": 6, "right": 3, "kept": 3}}
    assert about["base_model"] == tiny_folder and about["base_fingerprint"]
    altered = load_question_set(to)
    assert [question.id for question in altered.questions] == ["born:q0", "born:q1", "born:q2"]
    for number, question in enumerate(altered.questions):
        text = altered.documents_by_id[question.gold_ids[0]].text
        assert text == f"p{number} is from {question.golden_answers[0]}."
        assert question.metadata["belief"] == [CITIES[number]] != list(question.golden_answers)
        assert question.metadata["set"] == "born"
    other = source.rename(tmp_path / "other")
    assert run("belief", other, to, *options) == 2
    assert "made of born, expected a folder for other" in capsys.readouterr().err
    assert load_question_set(to) == altered
    believed = stances(altered.questions, CITIES[:3])
    assert believed["belief"].tolist() == [1, 1, 1]


def test_sets_of_one_name_are_refused(source, tmp_path, tiny_folder, capsys):
    assert run("belief", f"[{source},{source}]", tmp_path, f"--base_model={tiny_folder}") == 2
    assert "expected one or more with different names" in capsys.readouterr().err
