"""Tables and figures of the documents are those of the results files beside the weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from prag_core.evaluation.estimates import holm
from prag_core.evaluation.rendering import render_documents, signature
from tests.fixtures.paths import CONFIGS, ROOT

CHECKPOINTS = sorted(path.parent for path in ROOT.glob("checkpoints/*/model.safetensors"))


def test_tables_are_rendered_from_results():
    stale = [str(path.relative_to(ROOT)) for path in render_documents(ROOT, write=False)]
    assert not stale, "run `prag benchmark --render` (or `make tables`) in the repository"


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_results_are_those_of_the_weights_beside_them(folder: Path):
    path = folder / "results.json"
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}: `prag benchmark` writes it")
    results = json.loads(path.read_text("utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    assert results["weights_sha256"] == hashlib.sha256(weights).hexdigest(), (
        f"{path.relative_to(ROOT)} is of other weights: run its command again: {results['command']}"
    )
    assert results["cells"] and not results["failed"]


def test_p_values_of_a_file_are_corrected_for_all_of_it():
    for path in ROOT.glob("checkpoints/*/results.json"):
        rows = json.loads(path.read_text("utf-8"))["differences"]
        tested = [row["f1"] for row in rows if row["f1"]["p"] is not None]
        expected = pytest.approx(holm([row["p"] for row in tested]), abs=1e-4)  # of rounded ones
        assert [row["adjusted_p"] for row in tested] == expected, path


def test_the_figure_of_the_heads_is_that_of_their_results():
    folder = ROOT / "hypernet" / "training"
    shown = signature((folder / "heads.svg").read_text("utf-8"))
    assert hashlib.sha256((folder / "heads.json").read_bytes()).hexdigest() in shown, (
        "run `hypernet ablate --render` on a copy of heads.json, and copy its figure.svg"
    )


def test_the_heads_go_on_from_their_results():
    """`hypernet ablate` takes rows that were measured with the configuration as it stands."""
    measured = json.loads((ROOT / "hypernet" / "training" / "heads.json").read_text("utf-8"))
    configuration = yaml.safe_load((CONFIGS / "hypernet.yaml").read_text("utf-8"))
    assert measured["configuration"] == configuration


def test_every_figure_of_results_is_shown():
    for path in ROOT.glob("checkpoints/*/results.svg"):
        texts = (file.read_text("utf-8") for file in path.parent.glob("*.md"))
        assert any("](results.svg)" in text for text in texts), path


def test_no_table_of_results_is_typed():
    """Every table with an interval in it stands in a rendered block."""
    pages = (*ROOT.glob("checkpoints/*/*.md"), *ROOT.glob("prag_core/*/README.md"))
    for path in (ROOT / "README.md", *pages):
        typed = re.sub(r"<!-- table: .*?<!-- end -->", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"^\|.*\d \([+-]?[\d.]+ to ", typed, flags=re.MULTILINE), path.name
