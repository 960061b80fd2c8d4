"""The command line as a whole: the overview is quick and right, options are refused by name."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest

from prag_core import cli
from prag_core.corpus.documents import read_documents
from tests.fixtures.command_line import run

HEAVY = {"torch", "transformers", "lightning", "datasets", "matplotlib", "peft", "jsonargparse"}


def test_the_overview_loads_nothing_heavy():
    """In a process of its own: a line a command, and no package that takes long to import."""
    code = (
        "import sys; from prag_core.cli import main; status = main(['--help']); "
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())
    lines = done.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines)
    for name, command in cli.COMMANDS.items():
        assert f"  {name:<11}  {command.summary}" in lines


def test_the_help_of_a_command_loads_nothing_heavy():
    """All of them in one process: the first that imports such a package is named."""
    code = f"""
import sys
from contextlib import suppress
from prag_core.cli import COMMANDS, main
for name in COMMANDS:
    with suppress(SystemExit):
        main([name, "--help"])
    if heavy := {HEAVY - {"jsonargparse"}} & sys.modules.keys():
        sys.exit(f"{{name}}: {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.count("usage: prag") == len(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_has_its_summary_and_help(name, capsys):
    function = cli.load_function(cli.COMMANDS[name].place)
    assert cli.summary(function) == cli.COMMANDS[name].summary
    with pytest.raises(SystemExit) as exit:
        run(name, "--help")
    assert exit.value.code == 0
    assert f"usage: prag {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "commands:"), (("nothing",), "got command 'nothing', expected")]
)
def test_no_command_or_another_is_refused(arguments, message, capsys):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("demo", "--path=generated"), ("serve", "--generation.max_new_tokens=3")]
)
def test_options_that_a_command_would_not_read_are_refused(arguments):
    with pytest.raises(SystemExit):
        run(*arguments)


def test_a_server_takes_what_requests_do_not_say():
    _, parser = cli.build_parser("prag serve", cli.COMMANDS["serve"])
    options = parser.parse_args(["--answering.least_relevance=0.14", "--answering.abstain=true"])
    assert options.answering.least_relevance == 0.14 and options.answering.abstain


def listed(action: Literal["list", "fetch"] = "list", fast: bool = False) -> None:
    """List.

    Args:
        action: what to do.
        fast: do it fast.
    """


def test_words_may_be_left_out_and_switches_take_no_value():
    command = cli.Command("tests.test_cli:listed", "List.", words=["action"])
    function, parser = cli.build_parser("prag listed", command)
    assert function is listed
    assert parser.parse_args([]).action == "list"
    options = parser.parse_args(["fetch", "--fast"])
    assert (options.action, options.fast) == ("fetch", True)
    with pytest.raises(SystemExit):
        parser.parse_args(["burn"])


@pytest.mark.parametrize("content", [b"k: caf\xe9", "k: 2".encode("utf-16"), b"a: &x [*x]"])
def test_a_configuration_that_cannot_be_read_is_refused_in_words(content, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert run("answer", "Who?", f"--config={path}") == 2
    assert "prag answer: got a --config file that cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "- k", "kk: 3", "k: many", "training:\n  epochz: 3", None])
def test_a_wrong_configuration_is_refused(content, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as exit:
        run("answer", "Who?", f"--config={path}")
    assert exit.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_an_empty_path_is_not_the_current_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("A text.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="got '', which does not exist"):
        read_documents("")
    assert run("store", "list", "--path=") == 2
    assert "got an empty path" in capsys.readouterr().err


def test_after_ctrl_c_it_says_what_was_kept(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_function", stopped)
    assert run("parametrize", "a.txt") == run("warmup", "a", "b") == 130
    assert capsys.readouterr().err.splitlines() == [
        "stopped; run the same command again to go on", "stopped; nothing was kept",
    ]  # fmt: skip


def test_a_defect_keeps_its_stack_trace():
    with pytest.raises(KeyError):
        cli.run_command("prag", lambda: {}["missing"], "")
