"""`prag answer`: answers with their documents, on the terminal and in a file."""

from __future__ import annotations

import json

from tests.fixtures.command_line import run


def test_an_answer_comes_with_its_documents(corpus, options, tmp_path, capsys):
    store, answers = tmp_path / "store", tmp_path / "answers.jsonl"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    assert run("answer", "Where is Bo?", "--store", store, "--output", answers, *options) == 0
    assert capsys.readouterr().out.count("\n") == 4  # the answer and three documents
    assert json.loads(answers.read_text())["mode"] == "parametric"
    config = json.loads(answers.with_suffix(".config.json").read_text())
    assert config["dtype"] == "float32"


def test_answer_without_store_names_the_command_that_makes_one(options, tmp_path, capsys):
    assert run("answer", "Who?", "--store", tmp_path / "none", *options) == 2
    assert "prag parametrize" in capsys.readouterr().err
