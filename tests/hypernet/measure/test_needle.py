"""Needle in a haystack: the fact is hidden once, at its depth, and asked for."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from hypernet.cli import main
from hypernet.measure import needle
from hypernet.measure.needle import haystack, hide, insert
from hypernet.network.checkpoint import save_checkpoint
from prag_core.corpus.question_sets import load_question_set
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.tiny import byte_tokenizer, tiny_model

TEXTS = [f"The river number {i} flows to the sea. It is long." for i in range(40)]


def test_facts_are_hidden_at_their_depth():
    text, draw = haystack(TEXTS, byte_tokenizer(), 1000), random.Random(0)
    places = []
    for depth in (0.0, 0.5, 0.99):
        fact, question, answer = hide(draw)
        hidden = insert(text, fact, depth)
        assert answer in fact and fact[4:20] in question
        assert hidden.replace(f"{fact} ", "", 1) == text
        places.append(hidden.index(fact) / len(text))
    assert places == sorted(places) and places[0] < 0.1 and places[2] > 0.9
    with pytest.raises(ValueError, match=r"got a corpus of \d+ tokens, expected 9000"):
        haystack(TEXTS, byte_tokenizer(), 9000)


def test_training_set_has_one_fact_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr(needle, "TRAINING_START", 10)  # before it are the haystacks of `needle`
    tiny_model().model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text(lines)
    made = tmp_path / "made"

    def write(documents):
        return main([
            "needle_set", str(tmp_path / "corpus.jsonl"), str(made), f"--documents={documents}",
            "--tokens=200", f"--base_model={tmp_path / 'model'}",
        ])  # fmt: skip

    assert write(5) == 0
    found = load_question_set(made)
    assert len(found.documents) == len(found.questions) == 5
    texts = {document.id: document.text for document in found.documents}
    for question in found.questions:
        (text,), (number,) = (texts[i] for i in question.gold_ids), question.golden_answers
        assert text.count(number) == 1 and "The secret number of the" in text
        assert question.question.split(" of ")[2].strip("?") in text  # the name
        assert not any(name in text for name in needle.NAMES) and "number 9 flows" not in text
    (made / "corpus.jsonl").unlink()
    assert write(500) == 2  # too little text
    assert not (made / "corpus.jsonl").exists()


def test_command(tmp_path, capsys):
    base = tiny_model()
    base.model.config.max_position_embeddings = 2048  # one token a byte
    base.model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    base = replace(base, name=str(tmp_path / "model"))  # as config.json names it
    save_checkpoint(tmp_path / "network", network(base), CONFIG, base)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text(lines)
    main([
        "needle", str(tmp_path / "corpus.jsonl"), f"--weights={tmp_path / 'network'}",
        "--tokens=800", "--needles=5",
        f"--output={tmp_path / 'out.json'}",
    ])  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert {"merged", "retrieved", "closed_book"} < set(result)
    assert len(capsys.readouterr().out.splitlines()) == 6
