"""`prag models`: which base models load."""

from __future__ import annotations

from tests.fixtures.command_line import run


def test_the_embedded_model_is_named(capsys):
    assert run("models") == 0
    assert "smollm2-135m" in capsys.readouterr().out
