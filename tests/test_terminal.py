"""Progress where standard error is no terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest

from prag_core import cli, terminal


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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_text_is_printed_in_any_encoding(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.standard_streams():
        print("Zürich 北京 caf\udce9")
    printed = stream.buffer.getvalue().decode(encoding)
    assert printed.startswith("Z") and printed.rstrip().endswith("caf\\udce9")


def test_who_reads_no_more_ends_a_command_quietly(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
    with pytest.raises(SystemExit) as exit, terminal.standard_streams():
        cli.run_command("prag", lambda: print("x" * 100_000), "")
    assert exit.value.code == terminal.CLOSED_PIPE and capsys.readouterr().err == ""


def test_closed_streams_are_opened_on_nothing(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with terminal.standard_streams():
        assert sys.stdin.read() == ""
        print("nothing", file=sys.stderr)


def test_a_full_disk_is_a_failure_and_a_deleted_folder_is_named(monkeypatch, capsys, tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    assert cli.run_command("prag", full, "") == 1
    monkeypatch.setattr(os, "getcwd", lambda: os.stat(tmp_path / "none"))
    assert cli.main(["store", "list"]) == 2
    assert "current folder that was deleted" in capsys.readouterr().err


PARENT = """
import subprocess, sys
from prag_core.terminal import stopped_by_sigterm
child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
with stopped_by_sigterm():
    subprocess.run([sys.executable, "-c", child])
"""


def test_sigterm_ends_a_program_and_the_one_that_it_started():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as running:
        child = int(running.stdout.readline())
        running.terminate()
        assert running.wait(30) == 143
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
