"""Needles: facts are hidden once, each at its depth, and the set can be asked."""

from __future__ import annotations

import json
import random
from itertools import product

import pytest

from hypernet.cli import main
from hypernet.training import needles
from hypernet.training.needles import NAMES, THINGS, draw_facts, insert
from prag_core.corpus.question_sets import chunk_question_set, load_question_set
from tests.fixtures.tiny import byte_tokenizer, tiny_model

TEXTS = [f"The river number {i} flows to the sea. It is long." for i in range(40)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a set of 200 tokens a text, with these options."""
    monkeypatch.setattr(needles, "TRAINING_START", 10)  # before it are the texts to test on
    tiny_model().model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text(lines)

    def run(*options: str) -> int:
        return main([
            "needle_set", str(tmp_path / "corpus.jsonl"), str(tmp_path / "made"), "--tokens=200",
            f"--base_model={tmp_path / 'model'}", *options,
        ])  # fmt: skip

    return run


def test_facts_are_hidden_at_their_depth():
    text, places = " ".join(TEXTS), []
    facts = draw_facts(random.Random(0), 3, test=True)
    for depth, (fact, _, _) in zip((0.0, 0.5, 0.99), facts, strict=True):
        hidden = insert(text, fact, depth)
        assert hidden.replace(f"{fact} ", "", 1) == text or hidden == f"{text} {fact}"
        places.append(hidden.index(fact) / len(text))
    assert places == sorted(places) and places[0] < 0.1 and places[2] > 0.9


def test_a_fact_behind_the_last_sentence_has_its_space():
    assert insert("One here. Two there.", "Three.", 0.9) == "One here. Two there. Three."


@pytest.mark.parametrize("test", [True, False])
def test_facts_of_a_text_are_on_different_things(test):
    facts = draw_facts(random.Random(0), 12, test)
    assert len({question for _, question, _ in facts}) == 12
    for fact, question, answer in facts:
        assert answer in fact and question[12:-1] in fact
    with pytest.raises(ValueError, match="got 57 needles, expected 56 or fewer"):
        draw_facts(random.Random(0), 57, test=True)


def test_training_set_has_one_fact_a_document(write, tmp_path, capsys):
    made = tmp_path / "made"
    assert write("--documents=5") == 0
    found = load_question_set(made)
    assert len(found.documents) == len(found.questions) == 5
    texts = {document.id: document.text for document in found.documents}
    for question in found.questions:
        (text,), (number,) = (texts[i] for i in question.gold_ids), question.golden_answers
        assert text.count(number) == 1 and "The secret number of the" in text
        assert question.question.split(" of ")[2].strip("?") in text  # the name
        assert not any(name in text for name in NAMES) and "number 9 flows" not in text
    assert write("--documents=5") == 2
    assert "of another question set, expected a folder" in capsys.readouterr().err
    for name in ("corpus", "questions"):
        (made / f"{name}.jsonl").unlink()
    assert write("--documents=500") == 2
    assert "ask for fewer documents" in capsys.readouterr().err
    assert not (made / "corpus.jsonl").exists()


def test_a_text_to_ask_has_several_facts_and_can_be_cut(write, tmp_path):
    assert write("--documents=1", "--needles=4", "--test") == 0
    found = load_question_set(tmp_path / "made")
    (text,) = (document.text for document in found.documents)
    assert len(found.questions) == 4 and "number 12 flows" not in text
    places = [text.index(question.golden_answers[0]) for question in found.questions]
    assert places == sorted(places)
    things = {f"{thing} of {name}" for thing, name in product(THINGS, NAMES)}
    assert all(q.question[33:].strip("e ?").split("the ")[-1] in things for q in found.questions)
    cut = chunk_question_set(found, byte_tokenizer(), 120)
    assert len(cut.documents) > 3
    for question in cut.questions:
        (chunk,) = (cut.documents_by_id[i] for i in question.gold_ids)
        assert question.golden_answers[0] in chunk.text
