"""Every YAML of the core parses against the command that its first line names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prag_core import cli

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
CORE = [path for path in CONFIGS if "prag " in path.read_text().split("\n\n")[0]]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_yaml_parses_with_its_own_command(path):
    text = path.read_text()
    command = re.search(r"^#\s+prag (\w+) --config (\S+)(?: (\S+))?$", text, re.MULTILINE)
    assert command and command[2] == f"configs/{path.name}"
    source = [command[3]] if command[3] else []
    name = command[1]
    function = cli.load_function(cli.COMMANDS[name].place)
    parser = cli.build_parser(name, function, cli.UNREAD.get(name, ()))
    assert parser.parse_args(["--config", str(path), *source]).output.startswith("runs/")


def test_there_are_configs():
    names = {"evaluate_smollm2.yaml", "paper_llama_1b.yaml", "benchmark_paper.yaml"}
    assert names <= {path.name for path in CORE}
