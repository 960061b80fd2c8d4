"""`prag evaluate`: results and the resolved config."""

from __future__ import annotations

import json

from tests.fixtures.command_line import run


def test_evaluate_writes_results_and_resolved_config(corpus, options, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["evaluate", corpus, "--output", output, "--evaluation.k", 1, *options]
    assert run(*arguments) == 0
    assert "parametric" in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["conditions"]["shuffled"]["n"] == 6
    config = json.loads((output / "config.json").read_text())
    assert config["run"]["generation"]["max_new_tokens"] == 4
    assert run(*arguments[:-1], "--generation.max_new_tokens=5") == 2
    assert "generation.max_new_tokens" in capsys.readouterr().err
