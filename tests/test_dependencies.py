"""What is imported is declared, what is declared is pinned for CI, commits are checked as there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.fixtures.paths import ROOT

OWN = {"prag_core", "hypernet", "tests"}


def canonical(requirement: str) -> str:
    """Return the normalised name of a requirement such as `rank_bm25>=0.2.2`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(folder: str) -> dict[str, str]:
    """Return {package that is imported: a file that does}."""
    result = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            result |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in result.items() if name not in sys.stdlib_module_names}


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """What pyproject.toml declares for a folder: with all extras, `dev` for the tests alone."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 or newer")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    dev = {canonical(name) for name in extras.pop("dev")} - {"prag"}
    names = {canonical(name) for group in extras.values() for name in group}
    names |= {canonical(name) for name in project["dependencies"]}
    return {"prag_core": names, "hypernet": names, "tests": names | dev}


@pytest.mark.parametrize("folder", sorted(OWN))
def test_what_is_imported_is_declared(folder, declared):
    distributions = packages_distributions()
    undeclared = {
        name: path
        for name, path in imported(folder).items()
        if name not in OWN
        and not {canonical(d) for d in distributions.get(name, [name])} & declared[folder]
    }
    assert undeclared == {}


def test_what_is_declared_is_pinned(declared):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line) for line in lines if "==" in line}
    assert declared["tests"] - pinned == set()


def test_pins_leave_the_lowest_python_a_choice():
    """A pinned version that wants a newer Python than 3.10 says so: set-up resolves on all."""
    refused = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" not in line or line.startswith("#"):
            continue
        pin = Requirement(line)
        lowest = {"python_version": "3.10", "python_full_version": "3.10.0"}
        with suppress(PackageNotFoundError):  # some are installed on other systems only
            wanted = distribution(pin.name).metadata.get("Requires-Python", "")
            applies = pin.marker is None or pin.marker.evaluate(lowest)
            if applies and "3.10.0" not in SpecifierSet(wanted):
                refused.append(f"{pin.name} wants Python {wanted}")
    assert refused == []


def test_a_commit_is_checked_by_the_tools_of_make_lint(tmp_path):
    lint = re.search(r"\nlint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())[1]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = {hook["id"]: hook["entry"] for hook in local["hooks"]}
    words = re.findall(r"[\w-]+", " ".join(entries.values()))
    assert set(re.findall(r"\$\(BIN\)/([\w-]+)", lint)) <= set(words)
    (tmp_path / "sh").symlink_to(shutil.which("sh"))
    bare = {"PATH": str(tmp_path)}  # without import-linter, as on Python 3.10
    assert subprocess.run(["sh", "-c", entries["import-linter"]], env=bare).returncode == 0
