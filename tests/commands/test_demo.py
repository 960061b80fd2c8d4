"""The demo's flow on the tiny model, as the command line runs it."""

from __future__ import annotations

import json

from prag_core import cli
from prag_core.commands.demo import MODES
from tests.fixtures.tiny import byte_tokenizer, tiny_model


def test_demo_asks_every_mode_and_writes_results(tmp_path, capsys):
    model = tiny_model().model
    model.config.max_position_embeddings = 4096  # one token a byte: prompts are long
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    arguments = [
        "demo", f"--output={tmp_path / 'demo'}", "--paths=[trained]", "--training.max_steps=2",
        f"--base_model={tmp_path / 'model'}", "--dtype=float32", "--generation.max_new_tokens=2",
        "--training.layers=[0]", "--augmentation.qa_pairs=1",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    printed = "".join(capsys.readouterr().out.split())  # titles wrap
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert set(results["paths"]["trained"]["report"]["conditions"]) == set(MODES)
    assert len(results["examples"]) == 3
    for example in results["examples"]:
        assert "".join(example["question"].split()) in printed
        assert len(example["answers"]) == len(MODES)
