"""Markdown tables and figures against the results files that they are rendered from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prag_core import cli
from prag_core.evaluation.benchmark_results import grid_table, results_tables
from prag_core.evaluation.rendering import render, render_documents, results_figure

ENDS = {"f1": [0.4, 0.3, 0.5], "exact_match": [0.3, 0.2, 0.4], "containment": [0.5, 0.4, 0.6]}
COST = {"prompt": "p", "questions": 6, "documents": 5, "bytes": None, "seconds": 0.2}


def results(sets: tuple[str, ...] = ("towns", "rivers")) -> dict:
    places = [("closed_book", ""), ("parametric", "generated"), ("shuffled", "generated")]
    cell = {"sub_task": "total", "retrieval": "gold", "k": 1, "published": None, **ENDS, **COST}
    tested = {"mean": 0.1, "low": 0, "high": 0.2, "p": 0.01, "adjusted_p": 0.02, "detectable": 0.08}
    pair = {"path": "generated", "difference": "parametric - closed_book"}
    return {
        "base_model": "tiny",
        "cells": [{"set": s, "condition": c, "path": p} | cell for s in sets for c, p in places],
        "differences": [{"set": s} | pair | dict.fromkeys(ENDS, tested) for s in sets],
        "detectable": {s: {"f1": [0.08, 0.08]} for s in sets},
        "ratios": [],
        "notes": {"rivers": "Seen in training."},
        "failed": {},
    }


def block(kind: str, name: str = "results.json", sets: str = "") -> str:
    return f"Before.\n\n<!-- table: {kind} {name}{sets} -->\nold\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository: a README with a grid, a card with the tables of one set."""
    folder = tmp_path / "checkpoints" / "tiny"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results()))
    (folder / "card.md").write_text(block("results", sets=" rivers"))
    (tmp_path / "README.md").write_text(block("grid", "checkpoints/tiny/results.json"))
    return tmp_path


def test_blocks_hold_what_the_results_say_and_the_rest_stays(root):
    names = {"README.md", "card.md", "results.svg"}
    before = (root / "README.md").read_text()
    assert {path.name for path in render_documents(root, write=False)} == names
    assert (root / "README.md").read_text() == before
    assert {path.name for path in render_documents(root)} == names
    readme, card = (root / "README.md").read_text(), (root / "checkpoints/tiny/card.md").read_text()
    assert readme.startswith("Before.\n") and readme.endswith("<!-- end -->\n\nAfter.\n")
    assert grid_table(results()).markdown() in readme and "old" not in readme
    assert results_tables(results(), ["rivers"])[0].markdown() in card
    assert "Seen in training." in card and "towns" not in card
    assert "| parametric - closed_book (generated) | +10.0 (+0.0 to +20.0) |" in card
    assert render_documents(root) == []  # a second time there is nothing to write


def test_a_typed_number_and_other_results_are_noticed(root):
    render_documents(root)
    readme = root / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("40.0 (30.0", "41.0 (30.0", 1))
    assert render_documents(root, write=False) == [readme]
    readme.write_text(text)
    changed = results()
    changed["cells"][0]["f1"] = [0.41, 0.3, 0.5]
    (root / "checkpoints/tiny/results.json").write_text(json.dumps(changed))
    stale = {path.name for path in render_documents(root, write=False)}
    assert stale == {"README.md", "results.svg"}  # the card shows the other set


@pytest.mark.parametrize(
    ("kind", "name"), [("pie", "results.json"), ("results", "none.json"), ("speed", "../x.json")]
)
def test_unknown_kinds_and_missing_results_are_refused(root, kind, name):
    (root / "checkpoints/tiny/card.md").write_text(block(kind, name))
    with pytest.raises(ValueError, match=f"got a table {kind} of {name} in .*card.md, expected"):
        render_documents(root)


def test_a_table_of_named_conditions_shows_these_alone(root):
    cell = {"metrics": {"f1": {"mean": 0.5, "low": 0.4, "high": 0.6}}}
    record = {"conditions": {"gold": cell, "shuffled": cell, "gold+9": cell}, "ratios": {}}
    (root / "checkpoints/tiny/set.json").write_text(json.dumps(record))
    card = root / "checkpoints/tiny/card.md"
    card.write_text(block("conditions", "set.json gold gold+9"))
    render_documents(root)
    rows = [line.split(" | ")[0] for line in card.read_text().splitlines() if "50.0" in line]
    assert rows == ["| gold", "| gold+9"]


def test_a_curve_has_a_row_a_validation(root):
    point = {"step": 9, "documents": 7200, "seconds": 5400, "own": 1, "another's": 4.3, "none": 5}
    (root / "checkpoints/tiny/curve.json").write_text(json.dumps([point]))
    card = root / "checkpoints/tiny/card.md"
    card.write_text(block("curve", "curve.json"))
    render_documents(root)
    assert "| 9 | 7,200 | 1.50 | 1.00 | 4.30 | 5.00 |" in card.read_text()


def test_a_comparison_has_its_tables(tmp_path):
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6}
    metrics = dict.fromkeys(("f1", "exact_match", "containment"), cell)
    names = ("closed_book", "generated/parametric")
    quality = {"conditions": {n: {"n": 6, "seconds": 1, "metrics": metrics} for n in names}}
    record = {"questions": 6, "quality": quality | {"differences": {}, "ratios": {}}}
    (tmp_path / "compare.json").write_text(json.dumps(record))
    shown = render(block("compare", "compare.json", " quality"), tmp_path / "card.md")
    assert "| generated, parametric | 50.0 (40.0 to 60.0) |" in shown
    with pytest.raises(ValueError, match=r"got tables .*cost.*expected some of"):
        render(block("compare", "compare.json", " cost"), tmp_path / "card.md")


def test_the_command_renders_the_current_folder_and_runs_nothing(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert cli.main(["benchmark", "--render"]) == 0
    assert "rendered README.md, checkpoints/tiny/card.md" in capsys.readouterr().out
    assert cli.main(["benchmark", "--render"]) == 0
    assert "all is as the results have it" in capsys.readouterr().out
    assert not (root / "runs").exists()


def test_the_figure_has_a_panel_a_set_and_names_its_results(root):
    path = root / "checkpoints/tiny/results.json"
    drawn = results_figure(path)
    for name in ("towns", "rivers", "generated, parametric", "closed_book"):
        assert f"<!-- {name} -->" in drawn or f">{name}<" in drawn
    assert drawn == results_figure(path)
    path.write_text(json.dumps(results(("towns",))))
    assert "rivers" not in results_figure(path)


def test_what_unrelated_adapters_change_has_a_row_a_source(tmp_path):
    ends = {"mean": 1.05, "low": 1.01, "high": 1.09}
    difference = {"mean": -0.02, "low": -0.04, "high": 0.0}
    unrelated = {
        "../data/intros": {"texts": 24, "plain": 2.8, "ratio": ends},
        "choices:../data/nq": {"questions": 40, "difference": difference},
    }
    record = {"conditions": {}, "ratios": {}, "unrelated": unrelated}
    (tmp_path / "results.json").write_text(json.dumps(record))
    rendered = render(block("conditions"), tmp_path / "card.md")
    assert "| loss of unrelated text, intros | +5.0 (+1.0 to +9.0) % |" in rendered
    assert "| right of choices:nq | -2.0 (-4.0 to +0.0) points |" in rendered
