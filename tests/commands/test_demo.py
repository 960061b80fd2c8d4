"""The demo's flow on the tiny model, as the command line runs it."""

from __future__ import annotations

import json

from hypernet.network.checkpoint import save_checkpoint
from prag_core import cli
from prag_core.commands.demo import ADAPTER_MODES, MODES, NEED_TRAINING
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.tiny import byte_tokenizer, tiny_model


def test_demo_asks_every_mode_and_writes_results(tmp_path, capsys):
    base = tiny_model()
    save_checkpoint(tmp_path / "network", network(base), CONFIG, base)
    base.model.config.max_position_embeddings = 4096  # one token a byte: prompts are long
    base.model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    arguments = [
        "demo", f"--output={tmp_path / 'demo'}", f"--hypernet={tmp_path / 'network'}",
        f"--base_model={tmp_path / 'model'}", "--dtype=float32", "--generation.max_new_tokens=2",
        "--training.layers=[0]", "--training.max_steps=2", "--augmentation.qa_pairs=1",
        "--augmentation.strategy=span",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    printed = "".join(capsys.readouterr().out.split())  # titles wrap
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    asked = {name: {*path["report"]["conditions"]} for name, path in results["paths"].items()}
    assert [*asked] == ["generated", "trained"]  # the quick ones first
    assert asked["generated"] == {*MODES} - {*NEED_TRAINING}
    assert asked["trained"] == {*ADAPTER_MODES, *NEED_TRAINING}
    assert len(results["examples"]) == 3
    for example in results["examples"]:
        assert "".join(example["question"].split()) in printed
        assert len(example["answers"]) == len(MODES) + len(ADAPTER_MODES)
