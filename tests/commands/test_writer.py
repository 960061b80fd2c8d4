"""`prag writer`: an adapter that asks questions, which the trained path's augmentation uses."""

from __future__ import annotations

import json

import pytest

from prag_core.training.lora_trainer import LoraTrainer
from tests.fixtures.command_line import run


def shared_options(options):
    return [option for option in options if option.startswith(("--base_model", "--dtype"))]


def test_a_writer_is_trained_and_asks_about_documents(corpus, options, tmp_path, capsys):
    made, store = tmp_path / "writer", tmp_path / "s"
    assert run("writer", corpus, made, *shared_options(options)) == 0
    assert (made / "adapter_config.json").exists()
    kept = json.loads((made / "training.json").read_text())
    assert (kept["question_set"], kept["limit"], kept["documents"]) == (str(corpus), 0, 6)
    assert kept["training"]["epochs"] == 5 and kept["leave_out"]["titles"] is None
    asks = [
        "--augmentation.file=",
        "--augmentation.strategy=adapter",
        f"--augmentation.adapter={made}",
    ]
    assert run("parametrize", corpus, "--store", store, *options, *asks) == 0
    assert "holds 6 adapters" in capsys.readouterr().out


def test_what_is_too_long_to_ask_about_is_counted(corpus, options, tmp_path, capsys):
    shared = shared_options(options)
    assert run("writer", corpus, tmp_path / "a", "--training.max_tokens=16", *shared) == 2
    assert "got 6 of 6 documents of more than 16 tokens" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    rows = [json.loads(line) for line in (corpus / "corpus.jsonl").read_text().splitlines()]
    rows[0]["text"] *= 99
    (corpus / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="got 1 of 6 documents"):
        assert run("writer", corpus, tmp_path / "a", *shared) == 0


def test_a_writer_learns_from_nothing_that_is_held_out(corpus, options, tmp_path, monkeypatch):
    trained, train = [], LoraTrainer.train_writer

    def record(self, documents, pairs):
        trained.append({document.title for document in documents})
        return train(self, documents, pairs)

    monkeypatch.setattr(LoraTrainer, "train_writer", record)
    titles = tmp_path / "titles.txt"
    titles.write_text("Ada\nBo\n")
    left_out = f"--leave_out.titles={titles}"
    assert run("writer", corpus, tmp_path / "a", left_out, *shared_options(options)) == 0
    assert trained.pop() == {"Cy", "Di", "Ed", "Flo"}
    assert run("writer", corpus, tmp_path / "b", "--held_out=4", *shared_options(options)) == 0
    assert len(trained.pop()) == 2
    assert run("writer", corpus, tmp_path / "c", "--limit=3", *shared_options(options)) == 0
    assert len(trained.pop()) == 3


def test_a_writer_without_questions_is_refused(corpus, options, tmp_path, capsys):
    titles = tmp_path / "titles.txt"
    titles.write_text("\n".join(("Ada", "Bo", "Cy", "Di", "Ed", "Flo")))
    left_out = f"--leave_out.titles={titles}"
    assert run("writer", corpus, tmp_path / "a", left_out, *shared_options(options)) == 2
    assert "got no questions with gold documents" in capsys.readouterr().err


def test_no_shipped_writer_is_said(corpus, options, tmp_path, capsys):
    asks = ["--augmentation.file=", "--augmentation.strategy=adapter"]
    assert run("parametrize", corpus, "--store", tmp_path / "s", *options, *asks) == 2
    assert "none is shipped" in capsys.readouterr().err
