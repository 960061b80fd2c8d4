"""`prag models`: which base models load."""

from __future__ import annotations

from tests.fixtures.command_line import run


def test_the_embedded_model_is_named(capsys):
    assert run("models") == 0
    assert "smollm2-135m" in capsys.readouterr().out


def test_list_says_licence_and_default_and_an_unknown_name_is_refused(capsys):
    assert run("models", "list") == 0
    assert "qwen2.5-coder-0.5b (embedded, Apache-2.0):" in capsys.readouterr().out
    assert run("models", "fetch", "none") == 2
    assert "got model 'none', expected one of smollm2-135m" in capsys.readouterr().err
