"""Needle in a haystack: the fact is hidden once, at its depth, and asked for."""

from __future__ import annotations

import json
import random

import pytest
from conftest import byte_tokenizer, tiny_model
from hypernet_fixtures import CONFIG, network

from hypernet.checkpoint import save_checkpoint
from hypernet.cli import main
from hypernet.needle import haystack, hide, insert

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


def test_command(tmp_path, capsys):
    base = tiny_model()
    base.model.config.max_position_embeddings = 2048  # one token a byte
    base.model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    save_checkpoint(tmp_path / "network", network(base), CONFIG, base)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text(lines)
    main([
        "needle", str(tmp_path / "corpus.jsonl"), f"--weights={tmp_path / 'network'}",
        f"--base_model={tmp_path / 'model'}", "--tokens=800", "--needles=5",
        f"--output={tmp_path / 'out.json'}",
    ])  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert {"merged", "retrieved", "closed_book"} < set(result)
    assert len(capsys.readouterr().out.splitlines()) == 6
