"""Wordings: templates with their slots, ids, answers, and the choice for reading."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.model import wordings
from prag_core.model.wordings import (
    DEFAULT,
    READING,
    WORDINGS,
    Wording,
    find_wording,
    keep_choice,
    reading_wording,
)


def test_ids_tell_texts_apart_and_find_them_again():
    ids = {wording.id for wording in WORDINGS.values()}
    assert len(ids) == len(WORDINGS) and all(find_wording(i).id == i for i in ids)
    assert replace(DEFAULT, template=DEFAULT.template + " ").id != DEFAULT.id


def test_ids_of_the_wordings_stay():
    # Adapters and checkpoints of users record them: another text needs another name.
    assert [WORDINGS[name].id for name in ("direct", "short")] == ["direct-b4fa4f", "short-370cc0"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("poem", "expected one of direct, short"), ("short-000000", "got prompt 'short-000000'")],
)
def test_unknown_wordings_are_refused(name, expected):
    with pytest.raises(ValueError, match=expected):
        find_wording(name)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"template": "{question}"}, "{passages}"), ({"name": "a-b"}, "without '-'")],
)
def test_a_wording_without_its_slots_is_refused(fields, expected):
    with pytest.raises(ValueError, match=expected):
        Wording(**{"name": "mine", **fields})


def test_braces_of_users_stay():
    wording = Wording("mine", "{json}\n{passages}\nQ: {question}\n{passages}")
    assert wording.fill("{passages}?", "P") == "{json}\nP\nQ: {passages}?\nP"


def test_a_question_may_stand_in_several_places():
    wording = Wording("mine", "{question}\n{passages}\n{question}")
    assert wording.fill("{question}{passages}", "P") == (
        "{question}{passages}\nP\n{question}{passages}"
    )


@pytest.mark.parametrize(
    ("text", "name", "answer"),
    [
        ("He was born in Tarn. So the answer is Tarn.", "cot", "Tarn"),
        ("So the answer is A. No. So the answer is B. ", "cot", "B"),
        (" Tarn.", "cot", "Tarn."),
        ("It was Bo. So the answer is .NET.", "cot", ".NET"),
        (" So the answer is Tarn.", "short", "So the answer is Tarn."),
    ],
)
def test_answer_is_what_stands_behind_the_conclusion(text, name, answer):
    assert WORDINGS[name].answer(text) == answer


def test_answer_ends_at_the_first_of_its_ends():
    wording = replace(DEFAULT, ends=",.\n")
    assert [wording.answer(t) for t in (" Tarn, Oss.", " Tarn\nOss,", " Tarn")] == ["Tarn"] * 3


def test_behind_the_first_conclusion_where_text_goes_on():
    text = "Ida died. So the answer is 1971. Question: Who?\nAnswer: So the answer is Bo."
    assert WORDINGS["paper_cot"].answer(text) == "1971"
    assert WORDINGS["cot"].answer(text) == "Bo"


@pytest.mark.parametrize("question", ["Who", "Who?", " Who ? ", "Who ?"])
def test_a_punctuated_wording_ends_questions_with_their_mark(question):
    asked = WORDINGS["paper"].fill(question)
    assert asked.endswith("Question: Who?")
    assert WORDINGS["short"].fill(question).endswith(f"Question: {question}")


def test_choice_for_reading_is_kept_for_its_base_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    shipped = tmp_path / "shipped.json"
    shipped.write_text('{"a": {"prompt": "turns"}, "b": {"prompt": "turns"}}')
    monkeypatch.setattr(wordings, "CHOICES", shipped)
    keep_choice("a", {"prompt": "sentence"})
    assert [reading_wording(m).name for m in "abc"] == ["sentence", "turns", DEFAULT.name]


def test_a_home_that_may_not_be_looked_into_holds_no_choice(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    assert reading_wording("a") is DEFAULT


def test_every_wording_for_reading_has_a_lead():
    assert all(WORDINGS[name].lead for name in READING)


def test_a_damaged_choice_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    keep_choice("a", {"prompt": "sentence"}).write_text("{")
    with pytest.raises(ValueError, match=r"got a damaged .*a\.json .*--choose_prompts"):
        reading_wording("a")
