"""The command line: overview, help, and a run from the tiny YAML to what predict loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hypernet import cli
from hypernet.commands import training
from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import save_checkpoint
from hypernet.network.config import NetworkConfig
from hypernet.training.batches import BatchBuilder
from hypernet.training.module import HypernetModule
from prag_core.adapters.store import AdapterStore
from prag_core.cli import load_function, summary
from prag_core.cli import main as prag
from prag_core.corpus.documents import Document
from prag_core.model.prompts import prompt_id
from prag_core.model.wordings import DEFAULT, find_wording
from tests.fixtures.hypernetworks import network, write_question_set
from tests.fixtures.paths import CONFIGS, ROOT

TINY = NetworkConfig(layers=(0, 1), width=32, blocks=4, attention_heads=2, shared_rows=8)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_line_and_help(name, capsys, recwarn):
    place = cli.COMMANDS[name].place
    if place != cli.TRAINER:
        assert summary(load_function(place)) == cli.COMMANDS[name].summary
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert name in capsys.readouterr().out.splitlines()[0]


def test_the_overview_loads_nothing_heavy():
    """In a process of its own: every command with a line, and no package that takes long."""
    code = (
        "import sys; from hypernet.cli import main; main(['--help']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    assert not {"torch", "transformers", "lightning", "datasets", "jsonargparse"} & loaded
    for name, command in cli.COMMANDS.items():
        assert f"  {name:<10}  {command.summary}" in done.stdout.splitlines()


@pytest.fixture
def common(tiny_base, tmp_path, monkeypatch) -> list[str]:
    """Options of a run on the tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    tiny_base.model.save_pretrained("base")
    tiny_base.tokenizer.save_pretrained("base")
    data = write_question_set(tmp_path / "set")
    return [
        f"--config={CONFIGS / 'hypernet.yaml'}", f"--config={CONFIGS / 'hypernet_tiny.yaml'}",
        "--model.base_model=base",
        "--model.dtype=float32", f"--data.question_sets=[{data}]", "--data.corpora=[]",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--data.batch.documents=4", "--data.validation_articles=2",
    ]  # fmt: skip


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_fit_validate_export_and_resume(common, tmp_path, capsys):
    common = [*common, "--data.batch.ranks=[0,16]"]
    run = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", *common, *run]) == 0
    folder = tmp_path / "runs/hypernet_tiny"
    weights = f"--model.weights={folder / 'export'}"
    assert (folder / "export/model.safetensors").is_file()
    logged = (folder / "version_0/metrics.csv").read_text()
    settings = (folder / "version_0/config.yaml").read_text()
    assert "use_distributed_sampler: false" in settings  # a batch knows its process
    resolved = next(folder.glob("version_0/config.yaml"))
    with pytest.raises(SystemExit) as stop:  # what was saved beside the output runs again
        cli.main(["fit", f"--config={resolved}", "--print_config"])
    assert stop.value.code == 0
    assert "output: runs/hypernet_tiny" in capsys.readouterr().out
    for name in ("gold_nll", "group2_nll", "rank16_nll", "unrelated_kl"):
        assert f"val/{name}" in logged
    assert "containment" not in logged  # questions are asked by validate and test alone
    for command in ("validate", "test"):
        assert cli.main([command, *common, weights, "--model.score_documents=2"]) == 0
        printed = capsys.readouterr().out
        for name in ("gold", "shuffled", "closed_book", "in_context"):
            assert f"val/{name}_nll" in printed and f"val/{name}_containment" in printed
    assert cli.main(["validate", *common, weights, "--data.batch.ranks=[1]"]) == 2
    assert "got rank 1, expected 2 or more" in capsys.readouterr().err
    last = folder / "checkpoints/last.ckpt"
    assert cli.main(["export", str(last), "exported"]) == 0  # it knows its base model
    folders = (Path("exported"), folder / "export")
    exported, newest = (load_file(path / "model.safetensors") for path in folders)
    notes = [json.loads((path / "config.json").read_text())["training"] for path in folders]
    assert [note["prompt"] for note in notes] == [DEFAULT.id, DEFAULT.id]
    assert notes[0]["held_out"] == notes[1]["held_out"] and len(notes[0]["held_out"]) == 2
    assert exported.keys() == newest.keys()
    assert all(torch.equal(exported[key], newest[key]) for key in newest)
    run = ["--trainer.max_steps=6", "--trainer.val_check_interval=2"]
    capsys.readouterr()
    assert cli.main(["fit", *common, *run]) == 2  # it would replace what is there
    assert f"--ckpt_path {last.relative_to(tmp_path)}" in capsys.readouterr().err
    other = [*common, *run, f"--ckpt_path={last}", "--data.seed=1"]
    assert cli.main(["fit", *other]) == 2 and step_of(last) == 4
    assert "another held_out than the checkpoint" in capsys.readouterr().err
    assert cli.main(["fit", *common, *run, f"--ckpt_path={last}"]) == 0
    assert step_of(last) == 6
    again = (folder / "export/config.json").read_text()
    assert cli.main(["fit", *common, *run, f"--ckpt_path={last}"]) == 0  # nothing is left to do
    assert (folder / "export/config.json").read_text() == again  # what was made of it stays its own
    capsys.readouterr()
    mixed = ["predict", *common, weights, f"--ckpt_path={last}", "--data.predict_corpus=set"]
    assert cli.main(mixed) == 2
    assert "got no exported weights to predict with" in capsys.readouterr().err
    for place in (weights, f"--ckpt_path={last}"):
        with pytest.warns(UserWarning, match="articles to measure on that these weights did not h"):
            cli.main(["validate", *common, place, "--data.seed=1", "--model.score_documents=0"])


def test_the_record_of_a_run_is_that_of_its_training(common, tmp_path):
    silent = "--trainer.logger=false"  # all of a run is in one folder
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    assert cli.main(["fit", *common, *steps, silent]) == 0
    folder = tmp_path / "runs/hypernet_tiny"
    record = (folder / "config.yaml").read_text()
    scored = [f"--model.weights={folder / 'export'}", "--model.score_documents=0"]
    assert cli.main(["validate", *common, silent, *scored]) == 0
    assert (folder / "config.yaml").read_text() == record and "max_steps: 1\n" in record


def test_a_run_is_replaced_by_no_other(common, tmp_path, capsys):
    output, other = tmp_path / "runs/hypernet_tiny", tmp_path / "other.ckpt"
    last = output / "checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    for file in (last, other):
        torch.save({}, file)
    assert cli.main(["fit", *common, f"--ckpt_path={other}"]) == 2
    error = capsys.readouterr().err
    assert f"which holds a run, and checkpoint {other} of another, expected" in error
    assert "(--output)" in error and f"--ckpt_path {last.relative_to(tmp_path)}" in error
    for own in (last, last.with_name("best.ckpt"), output / "hpc_ckpt_1.ckpt"):
        torch.save({}, own)
        assert training._goes_on(output, str(own))
    assert training._goes_on(output, "last") and not training._goes_on(output, "s3://a/last.ckpt")


@pytest.mark.parametrize(("slurm", "starts"), [(True, "1"), (True, "0"), (False, "1")])
def test_a_run_goes_on_where_slurm_stopped_it(tmp_path, monkeypatch, slurm, starts):
    """Without a word, where Slurm queued it again: what another job left over is no reason."""
    monkeypatch.setattr(training.SLURMEnvironment, "detect", lambda: slurm)
    monkeypatch.setenv("SLURM_RESTART_COUNT", starts)
    assert not training._goes_on(tmp_path, None)
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    assert training._goes_on(tmp_path, None) is (slurm and starts == "1")


def test_a_run_that_was_moved_keeps_its_best_checkpoint(common, tmp_path):
    run = ["fit", *common, "--model.learning_rate=0", "--trainer.val_check_interval=3"]
    run.append("--trainer.logger=false")
    assert cli.main([*run, "--trainer.max_steps=3"]) == 0
    (tmp_path / "runs/hypernet_tiny").rename("moved")
    last = Path("moved/checkpoints/last.ckpt")
    more = [*run, f"--ckpt_path={last}", "--trainer.max_steps=6"]
    assert cli.main([*more, "--output=branch"]) == 0
    assert step_of(Path("branch/checkpoints/best.ckpt")) == 6  # the best of its own folder
    assert cli.main([*more, "--output=moved"]) == 0
    assert step_of(last) == 6
    assert step_of(last.with_name("best.ckpt")) == 3  # no validation beats the first


def test_predicted_adapters_answer_and_need_no_training_data(common, tiny_base, tmp_path, capsys):
    save_checkpoint("network", network(tiny_base, TINY), TINY, tiny_base)
    run = ["predict", *common, "--model.weights=network", "--model.store=store",
           f"--data.predict_corpus={tmp_path / 'set'}"]  # fmt: skip
    assert cli.main([*run, "--data.question_sets=[nowhere]"]) == 0
    with AdapterStore("store") as store:
        keys = set(store.keys())
        assert len(keys) == 6
    question = ["answer", "What does Ana like?", "--store=store", "--base_model=base",
                "--dtype=float32", "--path=generated", "--hypernet=network", "--k=1"]  # fmt: skip
    capsys.readouterr()
    assert prag(question) == 0
    assert "Ana" in capsys.readouterr().out  # the document it was answered from
    with AdapterStore("store") as store:
        assert set(store.keys()) == keys  # none was made again


def test_predicted_adapters_are_those_of_parametrize(common, tiny_base, tmp_path, capsys):
    notes = {"prompt": prompt_id(find_wording("direct"), tokenizer=tiny_base.tokenizer)}
    save_checkpoint("network", network(tiny_base, TINY), TINY, tiny_base, notes)
    corpus = tmp_path / "set"
    text = " ".join(f"Gus likes number {number}." for number in range(60))
    with (corpus / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "title": "Gus", "text": text}) + "\n")
    run = ["predict", *common, "--model.weights=network", "--model.store=predicted",
           "--trainer.precision=bf16-mixed", f"--data.predict_corpus={corpus}"]  # fmt: skip
    assert cli.main(run) == 0
    made = ["parametrize", str(corpus), "--store=made", "--base_model=base", "--dtype=float32",
            "--path=generated", "--hypernet=network"]  # fmt: skip
    assert prag(made) == 0
    with AdapterStore("predicted") as predicted, AdapterStore("made") as store:
        assert sorted(predicted) == sorted(store) and len(store) > 8  # with chunks of a long one
        assert dict(predicted.records("document")) == dict(store.records("document"))
        for key, adapter in store.items():
            same = predicted.get(key)
            assert same.metadata["prompt"] == adapter.metadata["prompt"] == notes["prompt"]
            for path, (a, b) in adapter.tensors.items():
                torch.testing.assert_close(same.tensors[path][0], a, rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(same.tensors[path][1], b, rtol=1e-5, atol=1e-6)


def test_predict_keeps_what_is_there_and_what_could_be_made(
    common, tiny_base, tmp_path, monkeypatch, capsys
):
    save_checkpoint("network", network(tiny_base, TINY), TINY, tiny_base)
    ana = Document("Ana likes red.", "Ana", "a1", {"year": 1931})
    with AdapterStore("store") as store:
        store.put_record("document", ana.id, asdict(ana))
    parametrize = HypernetParametrizer.parametrize

    def refused(self, documents):
        if "Bob" in [document.title for document in documents]:
            raise ValueError("got activations that are no numbers")
        return parametrize(self, documents)

    monkeypatch.setattr(HypernetParametrizer, "parametrize", refused)
    monkeypatch.setattr("hypernet.training.datamodule.PREDICTED", 2)  # Bob is in the first of three
    run = ["predict", *common, "--model.weights=network", "--model.store=store"]
    assert cli.main([*run, "--data.predict_corpus=set"]) == 2
    assert "got 1 of 2 documents that no adapter can be made of" in capsys.readouterr().err
    with AdapterStore("store") as store:
        records = dict(store.records("document"))
        assert len(store) == 5 and records[ana.id] == asdict(ana)
        assert {record["title"] for record in records.values()} == {
            "Ana",
            "Cy",
            "Dee",
            "Eli",
            "Fay",
        }


def test_weights_without_the_background_of_the_network_do_not_predict(common, tiny_base, capsys):
    save_checkpoint("network", network(tiny_base, TINY), TINY, tiny_base)
    run = ["predict", *common, "--model.weights=network", "--model.network.background=4"]
    assert cli.main([*run, "--data.predict_corpus=set", "--model.store=store"]) == 2
    assert "got weights network without a background, expected one" in capsys.readouterr().err
    assert not Path("store").exists()


def test_ctrl_c_in_a_training_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(arguments):  # as Lightning ends
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr("hypernet.commands.training.HypernetCLI", interrupted)
    assert cli.main(["fit"]) == 130
    assert "(--ckpt_path)" in capsys.readouterr().err


def test_without_lightning_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "hypernet.commands.training", raising=False)
    assert cli.main(["fit"]) == 2
    assert "got no lightning, expected the packages of training" in capsys.readouterr().err


def test_a_network_without_weights_is_not_scored(common, capsys):
    assert cli.main(["validate", *common]) == 2
    assert "got no weights to score, expected trained ones" in capsys.readouterr().err
    assert cli.main(["predict", *common, "--data.predict_corpus=set"]) == 2
    assert "got no exported weights to predict with" in capsys.readouterr().err


@pytest.fixture
def saved(monkeypatch) -> list[tuple[str, int]]:
    """Checkpoints as they are written: (name, step)."""
    save, files = lightning.Trainer.save_checkpoint, []

    def noted(trainer, path, *_):
        files.append((Path(path).name, trainer.global_step))
        save(trainer, path)

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", noted)
    return files


def test_the_last_checkpoint_is_the_newest_not_the_best(common, tmp_path, saved):
    run = ["fit", *common, "--model.learning_rate=0", "--trainer.val_check_interval=3"]
    assert cli.main([*run, "--trainer.max_steps=12"]) == 0  # no validation beats the first
    assert saved == [("best.ckpt", 3), *(("last.new", step) for step in (3, 6, 9, 10, 12))]
    folder = tmp_path / "runs/hypernet_tiny/checkpoints"
    (folder / "last.ckpt").unlink()
    assert cli.main([*run, "--trainer.max_steps=4"]) == 0  # a new run
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert step_of(folder / "last.ckpt") == 4


def test_a_killed_run_goes_on(common, tmp_path, monkeypatch):
    run = ["fit", *common, "--last_checkpoint.every_n_steps=2", "--trainer.logger=false"]
    last = tmp_path / "runs/hypernet_tiny/checkpoints/last.ckpt"
    command = [sys.executable, "-m", "hypernet", *run, "--trainer.max_steps=100000"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while not last.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    before = step_of(last)
    assert before >= 2
    built, build = [], BatchBuilder.build
    monkeypatch.setattr(
        BatchBuilder, "build", lambda *args: (built.append(args[1]), build(*args))[1]
    )
    steps = ["--trainer.val_check_interval=1000", f"--trainer.max_steps={before + 3}"]
    assert cli.main([*run, *steps, f"--ckpt_path={last}"]) == 0
    assert built == [before, before + 1, before + 2]
    assert step_of(last) == before + 3


@pytest.mark.parametrize(("steps", "hours"), [(2, 0), (10**6, 0.0005)])
def test_two_processes_train_one_network(common, tmp_path, steps, hours):
    """DDP on the CPU; where time ends it, both end after the same step."""
    run = ["fit", *common, "--trainer.devices=2", "--trainer.strategy=ddp",
           f"--trainer.max_steps={steps}", f"--model.max_hours={hours}",
           "--trainer.val_check_interval=2"]  # fmt: skip
    command = [sys.executable, "-m", "hypernet", *run]
    subprocess.run(command, env=environment(), check=True, timeout=300)
    assert (tmp_path / "runs/hypernet_tiny/export/model.safetensors").is_file()
    ended = step_of(tmp_path / "runs/hypernet_tiny/checkpoints/last.ckpt")
    assert ended == 2 if not hours else 0 < ended < steps


def test_the_base_model_is_on_the_device_of_its_process(tiny_base, monkeypatch):
    strategy = SimpleNamespace(root_device=torch.device("cuda", 3))
    monkeypatch.setattr(HypernetModule, "trainer", SimpleNamespace(strategy=strategy))
    devices = []
    monkeypatch.setattr(
        "hypernet.training.module.load_base_model",
        lambda *args: (devices.append(args[2]), tiny_base)[1],
    )
    HypernetModule(network=TINY).configure_model()
    assert devices == ["cuda:3"]


def test_the_shipped_configs_logger_needs_no_account(common, tmp_path, monkeypatch):
    """Weights & Biases offline, accumulation, and bfloat16, as in hypernet.yaml."""
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = ["fit", *common, "--logger=wandb", "--trainer.accumulate_grad_batches=2",
           "--trainer.precision=bf16-mixed", "--trainer.max_steps=2"]  # fmt: skip
    assert cli.main([*run, "--trainer.val_check_interval=4"]) == 0
    wandb.finish()  # the end of a process does it
    (folder,) = Path("runs/hypernet_tiny/wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert step_of(tmp_path / "runs/hypernet_tiny/checkpoints/last.ckpt") == 2


def test_export_asks_for_the_base_model_that_a_checkpoint_does_not_name(
    common, tmp_path, tiny_base, capsys
):
    run = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.logger=false"]
    assert cli.main(["fit", *common, *run]) == 0
    record = torch.load("runs/hypernet_tiny/checkpoints/last.ckpt", weights_only=True)
    assert record.pop("base_model") == "base"
    torch.save(record, "nameless.ckpt")
    assert cli.main(["export", "nameless.ckpt", "exported"]) == 2
    assert "does not name its base model" in capsys.readouterr().err
    assert cli.main(["export", "nameless.ckpt", "exported", "--base_model=base"]) == 0
    torch.save(record | {"base_model": "base", "base_fingerprint": "other"}, "foreign.ckpt")
    assert cli.main(["export", "foreign.ckpt", "exported"]) == 2
    assert "expected the one that foreign.ckpt was trained on (other)" in capsys.readouterr().err


def test_print_config_lists_every_option(common, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", *common, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["batch"]["documents"] == 4
    assert printed["model"]["network"]["whitening"] == "diagonal"


def environment() -> dict[str, str]:
    """The environment of a process that finds this checkout's modules."""
    return os.environ | {"PYTHONPATH": str(ROOT)}
