"""Progress where standard error is no terminal."""

from __future__ import annotations

import time

from prag_core import terminal


def test_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PERIOD", 0.05)
    with terminal.progress_bar("adapters", 12) as advance:
        time.sleep(0.2)
        advance(8)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "adapters: 0 of 12, 0 s"
    assert lines[-1].startswith("adapters") and "8 of 12" in lines[-1]


def test_short_work_is_silent(capsys):
    with terminal.progress_bar("adapters", 12) as advance:
        advance(12)
    assert capsys.readouterr().err == ""
