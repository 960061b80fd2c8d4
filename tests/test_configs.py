"""Every YAML opens with the command that uses it, and all of its settings are known to it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import hypernet.cli
from prag_core import cli
from prag_core.pipeline.setup import Setup
from tests.fixtures.paths import CONFIGS, ROOT

PATHS = sorted(CONFIGS.glob("*.yaml"))


def commands(path: Path) -> list[list[str]]:
    """Return the command lines in the comments at the top of a YAML file."""
    top = re.match(r"(#.*\n)*", path.read_text())[0]
    text = re.sub(r"\\\n#", "", top)  # lines that go on
    found = re.findall(r"^#   ((?:prag|hypernet) .*--config .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found]


def resolve(command: list[str], capsys) -> dict:
    """Return the settings of a command, defaults included."""
    program = {"prag": cli, "hypernet": hypernet.cli}[command[0]]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        program.main([*command[1:], "--print_config"])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    return yaml.safe_load(printed.out)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_yaml_opens_with_its_command_and_resolves(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, *others = commands(path)
    assert path.read_text().startswith("#   " + first[0])
    assert f"configs/{path.name}" in first
    for command in (first, *others):
        assert resolve(command, capsys)["output"].startswith("runs/")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_key_has_its_comment(path):
    """Where it comes first, unless its value is a section; and no line is too long."""
    lines = path.read_text().splitlines()
    assert all(len(line) <= 100 for line in lines)
    settings = [match for line in lines if (match := re.match(r"[ -]*([\w.]+): *(\S.*)", line))]
    first = {match[1]: match[0] for match in reversed(settings)}
    assert [line for line in first.values() if "  #" not in line] == []


def test_the_trained_paths_configuration_writes_its_default_out():
    config, default = yaml.safe_load((CONFIGS / "trained_smollm2.yaml").read_text()), Setup()
    for part in ("augmentation", "training"):
        usual = getattr(default, part)
        assert config[part] == {name: getattr(usual, name) for name in config[part]}


def test_the_base_sets_every_option_of_network_and_data(capsys, monkeypatch):
    """configs/hypernet.yaml is the reference: what `fit` knows of model and data stands in it."""
    monkeypatch.chdir(ROOT)
    path = CONFIGS / "hypernet.yaml"
    written, resolved = yaml.safe_load(path.read_text()), resolve(commands(path)[0], capsys)
    for section in ("model", "data"):
        assert flat(written[section]).keys() == flat(resolved[section]).keys()


def flat(settings: dict, prefix: str = "") -> dict:
    """Return {dotted key: value}."""
    result = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        result |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return result
