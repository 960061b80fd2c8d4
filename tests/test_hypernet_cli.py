"""The command line: every YAML is built, a run from the tiny YAML exports what predict loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypernet_fixtures import write_question_set
from lightning.pytorch.cli import LightningArgumentParser

from hypernet import cli
from hypernet.datamodule import HypernetDataModule
from hypernet.module import HypernetModule
from prag_core.adapter_store import AdapterStore

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.glob("hypernet_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_yaml_parses_and_names_its_command(path):
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(HypernetModule, "model")
    parser.add_lightning_class_args(HypernetDataModule, "data")
    for key in ("trainer", "seed_everything"):
        parser.add_argument(f"--{key}")
    text = path.read_text()
    assert text.startswith(f"# Command: python -m hypernet fit --config configs/{path.name}\n")
    assert parser.parse_string(text).model.network.layers


def test_fit_export_and_predict(tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_base.model.save_pretrained("base")
    tiny_base.tokenizer.save_pretrained("base")
    data = write_question_set(tmp_path / "set")
    common = [
        f"--config={FOLDER / 'hypernet_tiny.yaml'}", "--model.base_model=base",
        "--model.dtype=float32", f"--data.question_sets=[{data}]", "--data.corpora=[]",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    run = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", *common, *run]) == 0
    folder = tmp_path / "runs/hypernet_tiny"
    assert (folder / "export/model.safetensors").is_file()
    logged = (folder / "metrics.csv").read_text()
    for name in ("gold_nll", "group2_nll", "rank16_nll", "unrelated_kl"):
        assert f"val/{name}" in logged
    assert "containment" not in logged  # questions are asked by validate and test alone
    assert cli.main(["predict", *common, f"--model.weights={folder / 'export'}",
              f"--data.predict_corpus={data}", "--model.store=store"]) == 0  # fmt: skip
    assert len(list(AdapterStore("store").keys())) == 6
    assert cli.main(["validate", *common, f"--model.weights={folder / 'export'}",
              "--model.score_documents=1"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    for name in ("gold_nll", "shuffled_nll", "closed_book_nll", "in_context_nll"):
        assert f"val/{name}" in printed
