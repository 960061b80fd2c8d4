"""The command line: every YAML is built, a run from the tiny YAML exports what predict loads."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from hypernet_fixtures import write_question_set
from lightning.pytorch.cli import LightningArgumentParser
from safetensors.torch import load_file

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
    parser.add_lightning_class_args(lightning.Trainer, "trainer")
    parser.add_argument("--seed_everything")
    text = path.read_text()
    assert text.startswith(f"# Command: python -m hypernet fit --config configs/{path.name}\n")
    assert parser.parse_string(text).model.network.layers


def test_fit_export_and_predict(tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    tiny_base.model.save_pretrained("base")
    tiny_base.tokenizer.save_pretrained("base")
    data = write_question_set(tmp_path / "set")
    common = [
        f"--config={FOLDER / 'hypernet_tiny.yaml'}", "--model.base_model=base",
        "--model.dtype=float32", f"--data.question_sets=[{data}]", "--data.corpora=[]",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--data.batch.ranks=[0,16]",
    ]  # fmt: skip
    run = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", *common, *run]) == 0
    folder = tmp_path / "runs/hypernet_tiny"
    assert (folder / "export/model.safetensors").is_file()
    logged = (folder / "version_0/metrics.csv").read_text()
    settings = (folder / "version_0/config.yaml").read_text()
    assert "use_distributed_sampler: false" in settings  # a batch knows its process
    for name in ("gold_nll", "group2_nll", "rank16_nll", "unrelated_kl"):
        assert f"val/{name}" in logged
    assert "containment" not in logged  # questions are asked by validate and test alone
    assert cli.main(["predict", *common, f"--model.weights={folder / 'export'}",
              f"--data.predict_corpus={data}", "--model.store=store"]) == 0  # fmt: skip
    assert len(list(AdapterStore("store").keys())) == 6
    assert cli.main(["validate", *common, f"--model.weights={folder / 'export'}",
              "--model.score_documents=1"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    for name in ("gold", "shuffled", "closed_book", "in_context"):
        assert f"val/{name}_nll" in printed and f"val/{name}_containment" in printed
    assert cli.main(["validate", *common, f"--model.weights={folder / 'export'}",
              "--data.batch.ranks=[1]"]) == 2  # fmt: skip
    assert "got rank 1, expected more than" in capsys.readouterr().err
    last = folder / "checkpoints/last.ckpt"
    assert cli.main(["export", str(last), "exported"]) == 2  # another base model
    assert cli.main(["export", str(last), "exported", "--base_model=base"]) == 0
    folders = (Path("exported"), folder / "export")
    exported, newest = (load_file(path / "model.safetensors") for path in folders)
    assert exported.keys() == newest.keys()
    assert all(torch.equal(exported[key], newest[key]) for key in newest)
    run = ["--trainer.max_steps=6", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", *common, *run, f"--ckpt_path={last}"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 6
