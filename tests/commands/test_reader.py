"""`prag reader`: a LoRA that answers from passages, its curves, and what is refused."""

from __future__ import annotations

import json

import pytest

from prag_core.formats.peft_folder import from_peft
from prag_core.training.reader import train_reader
from tests.fixtures.command_line import run

READING = [
    "--reading.learning_rates=[1e-2,1e-4]", "--reading.max_hours=1e-4", "--reading.every=1",
    "--reading.batch=2", "--reading.held_out_articles=2",
]  # fmt: skip


@pytest.fixture
def trained(corpus, tiny_folder, tmp_path):
    """The output of a whole run."""
    output = tmp_path / "reader"
    shared = [f"--base_model={tiny_folder}", "--dtype=float32", "--training.rank=2"]
    assert run("reader", corpus, f"--output={output}", *shared, *READING) == 0
    return output


def test_adapter_and_curves_are_written(trained, tiny_base):
    assert sorted(p.name for p in trained.iterdir()) == ["adapter", "curves.json"]
    kept = json.loads((trained / "curves.json").read_text())
    adapter = from_peft(trained / "adapter", tiny_base)
    assert adapter.rank == 2 and adapter.metadata["prompt"] == kept["prompt"] != ""
    assert [point["learning_rate"] for point in kept["curves"][:2]] == [1e-2, 1e-4]
    assert kept["best"] == min(kept["curves"], key=lambda point: point["held_out_loss"])
    assert kept["stopped"] in ("time", "flat") and len(kept["held_out_articles"]) == 2
    assert (kept["questions"], kept["held_out_questions"]) == (4, 2)


def test_a_run_that_is_stopped_keeps_its_best_adapter(corpus, tiny_folder, tmp_path, monkeypatch):
    def train(*arguments):
        yield next(train_reader(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr("prag_core.training.reader.train_reader", train)
    shared = [f"--base_model={tiny_folder}", "--dtype=float32", "--training.rank=2"]
    assert run("reader", corpus, f"--output={tmp_path / 'r'}", *shared, *READING) == 130
    assert (tmp_path / "r" / "adapter" / "adapter_config.json").is_file()
    assert len(json.loads((tmp_path / "r" / "curves.json").read_text())["curves"]) == 1


def test_an_adapter_that_is_there_is_not_overwritten(trained, corpus, capsys):
    assert run("reader", corpus, f"--output={trained}", *READING) == 2
    assert "which has content, expected a new or empty folder" in capsys.readouterr().err


def test_no_adapter_is_told_where_all_learning_rates_diverge(corpus, tiny_folder, tmp_path, capsys):
    shared = [f"--base_model={tiny_folder}", "--dtype=float32", "--training.rank=2"]
    rates = ["--reading.learning_rates=[1e30]", "--reading.every=3"]
    assert run("reader", corpus, f"--output={tmp_path / 'r'}", *shared, *READING, *rates) == 2
    printed = capsys.readouterr()
    assert "lower --reading.learning_rates" in printed.err and "ended" not in printed.out
    curves = (tmp_path / "r" / "curves.json").read_text()
    assert "NaN" not in curves
    assert json.loads(curves)["curves"][-1]["held_out_loss"] is None
