"""The results file of a benchmark of made-up answers, and its tables."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from prag_core.corpus.answer_scores import METRICS
from prag_core.evaluation import benchmark
from prag_core.evaluation.benchmark import PLAN, QUESTIONS
from prag_core.evaluation.benchmark_options import BenchmarkModel, BenchmarkSet, Group, expand
from prag_core.evaluation.benchmark_results import (
    SCORED,
    collect_results,
    grid_table,
    ratio_table,
    results_markdown,
    results_tables,
    variant_table,
    write_results,
)
from prag_core.evaluation.estimates import Bootstrap, holm
from prag_core.evaluation.report.tables import SECONDS, in_unit
from prag_core.evaluation.results import answers_path, append_answers
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup

DOCUMENTS = [n // 2 for n in range(24)]  # two questions each
VALUES = {
    "closed_book": [0.0] * 24,
    "in_context": [n % 5 / 5 for n in range(24)],
    "in_context@1": [n % 3 / 3 for n in range(24)],
    "parametric": [n % 7 / 7 for n in range(24)],
    "shuffled": [n % 2 / 9 for n in range(24)],
    "rank:32": [n % 4 / 8 for n in range(24)],
}


def groups(output: Path, seeds: tuple[int, ...] = (0,), **changes) -> list[Group]:
    """Two sets on both paths; the second asks every third question of the trained path."""
    hypernet = output / "weights"
    hypernet.mkdir(parents=True, exist_ok=True)
    (hypernet / "model.safetensors").write_bytes(b"weights")
    sets = [
        BenchmarkSet("towns", retrieval="gold", k=2, note="Trained on."),
        BenchmarkSet("rivers", k=2, limits={"trained": 8}),
    ]
    model = BenchmarkModel("tiny", hypernet=str(hypernet), **changes)
    return expand(Setup(), output, sets, [model], ["generated", "trained"], [*VALUES], seeds)


def write_answers(groups: list[Group], step: int = 3) -> None:
    for group in groups:
        places = range(0, 24, step if group.path == "trained" else 1)
        kept = [
            {"id": f"q{n}", "type": "", "total": True, "documents": [f"d{DOCUMENTS[n]}"]}
            for n in places
        ]
        (group.folder / PLAN).mkdir(parents=True)
        write_json(group.folder / PLAN / QUESTIONS, kept)
        for condition in group.conditions:
            rows = [record(group, condition, n) for n in places]
            append_answers(answers_path(group.folder, condition), rows)


def record(group: Group, condition: str, n: int) -> dict:
    size = {"rank:32": 100, "parametric": 600 + DOCUMENTS[n]}.get(condition)
    return {
        "id": f"q{n}",
        "scores": dict.fromkeys(METRICS, VALUES[condition][n]),
        "prediction": "x",
        "seconds": 0.5,
        "prompt": "direct-1",
        "documents": [{"id": f"d{DOCUMENTS[n]}", "bytes": size}] if condition[0] != "c" else [],
    }


@pytest.fixture
def results(tmp_path) -> dict:
    members = groups(tmp_path)
    write_answers(members)
    (path,) = write_results(members, {}, tmp_path)
    assert path == tmp_path / "tiny" / "results.json"
    return json.loads(path.read_text())


def cell(results: dict, condition: str, path: str = "", name: str = "towns") -> dict:
    (only,) = [
        c
        for c in results["cells"]
        if (c["condition"], c["path"], c["set"]) == (condition, path, name)
    ]
    return only


def test_a_cell_is_the_bootstrap_over_documents_of_its_answers(results):
    found = cell(results, "parametric", "generated")
    whole = Bootstrap(DOCUMENTS).mean(VALUES["parametric"])
    for metric in SCORED:
        assert found[metric] == pytest.approx([whole.mean, whole.low, whole.high], abs=1e-6)
    assert (found["questions"], found["documents"], found["k"]) == (24, 12, 2)
    assert (found["prompt"], found["seconds"], found["bytes"]) == ("direct-1", 0.5, 606)
    assert cell(results, "rank:32", "generated")["bytes"] == 100
    assert [cell(results, c)["k"] for c in ("closed_book", "in_context", "in_context@1")] == [
        0, 2, 1,
    ]  # fmt: skip
    assert cell(results, "closed_book")["bytes"] is None
    few = cell(results, "parametric", "trained")
    assert (few["questions"], few["documents"]) == (8, 8)
    assert not [
        c for c in results["cells"] if (c["condition"], c["path"]) == ("rank:32", "trained")
    ]


def test_differences_are_paired_and_corrected_over_the_whole_file(results):
    rows = {(r["set"], r["path"], r["difference"]): r for r in results["differences"]}
    assert len(rows) == 2 * 2 * 4  # sets, paths, what adapters are held against
    found = rows["towns", "generated", "parametric - in_context@1"]["f1"]
    alone = Bootstrap(DOCUMENTS).difference(VALUES["parametric"], VALUES["in_context@1"])
    assert [found[n] for n in ("mean", "low", "high", "p", "detectable")] == pytest.approx(
        [alone.mean, alone.low, alone.high, alone.p, alone.detectable], abs=1e-6
    )
    adjusted = holm([row["f1"]["p"] for row in rows.values()])
    assert [row["f1"]["adjusted_p"] for row in rows.values()] == pytest.approx(adjusted, abs=1e-5)
    assert found["adjusted_p"] > found["p"]
    sizes = [row["f1"]["detectable"] for key, row in rows.items() if key[0] == "towns"]
    assert results["detectable"]["towns"]["f1"] == [min(sizes), max(sizes)]
    # The trained path is held against the shared answers to its own questions.
    few = rows["rivers", "trained", "parametric - in_context"]["f1"]["mean"]
    pairs = zip(VALUES["parametric"][::3], VALUES["in_context"][::3], strict=True)
    assert few == pytest.approx(sum(a - b for a, b in pairs) / 8, abs=1e-6)


def test_ratios_are_to_the_best_reading(results):
    ratios = {(r["set"], r["path"], r["ratio"]): r["f1"] for r in results["ratios"]}
    best = sum(VALUES["parametric"]) / sum(VALUES["in_context"])
    assert ratios["towns", "generated", "parametric / in_context"][0] == pytest.approx(
        best, abs=1e-6
    )
    assert ("towns", "generated", "rank:32 / parametric") in ratios


def test_the_head_names_weights_seed_and_notes(results):
    assert results["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert results["seed"] == 0
    assert results["notes"] == {"towns": "Trained on."} and results["failed"] == {}
    assert (results["base_model"], results["hypernet"]) == ("tiny", "weights")


def test_answers_of_several_seeds_are_pooled_by_document(tmp_path):
    once, thrice = groups(tmp_path / "1"), groups(tmp_path / "3", seeds=(0, 1, 2))
    write_answers(once)
    write_answers(thrice)
    one, three = (cell(collect_results(g), "in_context") for g in (once, thrice))
    assert (three["questions"], three["documents"]) == (72, 12)
    assert three["f1"] == pytest.approx(one["f1"])  # three equal answers say no more than one


def test_seeds_that_join_documents_in_other_ways_are_pooled_together(tmp_path):
    """One seed asks d0 with d1, the other d1 with d2: all three are one group then."""
    every = groups(tmp_path, seeds=(0, 1))
    members = [g for g in every if (g.spec.label, g.path) == ("towns", "generated")]
    for group, linked in zip(members, (["d0", "d1"], ["d1", "d2"]), strict=True):
        rows = [("q0", linked), *((f"q{n}", [f"e{n}"]) for n in range(1, 8))]
        kept = [{"id": i, "type": "", "total": True, "documents": d} for i, d in rows]
        (group.folder / PLAN).mkdir(parents=True)
        write_json(group.folder / PLAN / QUESTIONS, kept)
        for condition in group.conditions:
            answers = [record(group, condition, n) for n in range(8)]
            append_answers(answers_path(group.folder, condition), answers)
    found = cell(collect_results(members), "parametric", "generated")
    assert (found["questions"], found["documents"]) == (16, 8)


def test_an_unfinished_cell_is_left_out(tmp_path):
    members = groups(tmp_path)
    write_answers(members)
    path = answers_path(members[0].folder, "in_context")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    left = collect_results(members)
    assert "in_context" not in {c["condition"] for c in left["cells"] if c["set"] == "towns"}
    assert "in_context" in {c["condition"] for c in left["cells"] if c["set"] == "rivers"}


def test_results_go_where_the_model_says_with_the_failures_of_its_cells(tmp_path):
    members = groups(tmp_path, results=str(tmp_path / "beside" / "results.json"))
    write_answers(members)
    name = members[0].cell("in_context")
    (path,) = write_results(members, {name: "no memory", "another model": "gone"}, tmp_path)
    assert path.parent.name == "beside"
    assert json.loads(path.read_text())["failed"] == {name: "no memory"}


def test_tables_show_every_number_of_the_file_and_the_notes(results):
    towns, rivers = results_tables(results)
    assert towns.title == "towns, tiny (gold documents, k = 2)"
    assert towns.note.startswith("Trained on. In %") and not rivers.note.startswith("Trained")
    assert towns.headings[:5] == ("condition", "F1", "containment", "exact match", "p")
    rows = {
        row[0]: dict(zip(towns.headings, row, strict=True)) for s in towns.sections for row in s
    }
    shown = rows["parametric (generated)"]
    mean, low, high = (100 * v for v in cell(results, "parametric", "generated")["f1"])
    assert shown["F1"] == f"{mean:.1f} ({low:.1f} to {high:.1f})"
    assert (shown["a document"], shown["a question"]) == ("606 B", "0.50 s")
    assert rows["parametric - in_context (generated)"]["p"] not in ("", "-")
    assert "smallest difference in F1" in towns.note
    (only,) = results_tables(results, ["rivers"])
    assert only == rivers
    with pytest.raises(ValueError, match="got set 'lakes', expected one of towns, rivers"):
        results_tables(results, ["lakes"])
    assert results_markdown(results).count("| parametric (generated) |") == 2
    assert "a question" not in results_tables(results, narrow=True)[0].headings


def test_the_grid_has_all_sets_side_by_side(results):
    grid = grid_table(results)
    assert grid.headings == ("condition", "towns\\*", "rivers")
    rows = {row[0]: row[1:] for row in grid.sections[0]}
    mean, low, high = (100 * v for v in cell(results, "in_context@1")["f1"])
    assert rows["in_context@1"] == (f"{mean:.1f} ({low:.1f} to {high:.1f}), {mean:.1f}",) * 2
    assert "\\* Trained on." in grid.note
    part = grid_table(results, ["closed_book"])
    assert [row[0] for row in part.sections[0]] == ["closed_book"]
    with pytest.raises(ValueError, match=r"got conditions \{'open_book'\}, expected some of"):
        grid_table(results, ["open_book"])


def test_variants_stand_in_rows_with_what_their_adapters_cost(results):
    named = ["closed_book", "parametric", "shuffled"]
    grid, turned = grid_table(results, named), variant_table(results, named)
    assert turned.headings == ("variant", "parametric", "shuffled", "an adapter")  # of adapters
    sets = [heading.rstrip("\\*") for heading in grid.headings[1:]]
    paths = {cell["path"]: cell for cell in results["cells"] if cell["path"]}
    assert {row[0] for row in turned.sections[0]} == {f"{s} ({p})" for s in sets for p in paths}
    across = {row[0]: dict(zip(sets, row[1:], strict=True)) for row in grid.sections[0]}
    for name, parametric, shuffled, seconds in turned.sections[0]:
        one, path = name[:-1].split(" (")
        assert parametric == across[f"parametric ({path})"][one]
        assert shuffled == across[f"shuffled ({path})"][one]
        own = next(c for c in results["cells"] if (c["set"], c["path"]) == (one, path))
        assert seconds == in_unit(own["making_seconds"], SECONDS)


def test_ratios_have_all_sets_side_by_side(results):
    table = ratio_table(results)
    assert table.headings == ("ratio", "towns", "rivers")
    rows = {row[0]: row[1:] for row in table.sections[0]}
    assert results["ratios"]
    for one in results["ratios"]:
        name = one["ratio"] + (f" ({one['path']})" if one["path"] else "")
        shown = rows[name][table.headings.index(one["set"]) - 1]
        assert one["f1"] is None or shown.startswith(f"{100 * one['f1'][0]:.1f} (")


def test_what_answers_were_made_with_is_kept_from_run_to_run(tmp_path, monkeypatch):
    for name in ("abc", "def", "abc", "def"):
        monkeypatch.setattr(benchmark, "commit", lambda name=name: name)
        benchmark._keep_run(tmp_path)
    run = benchmark.read_run(tmp_path)
    assert run["commit"] == "abc, def" and run["machine"]["cores"] and run["versions"]["torch"]
    assert benchmark.read_run(tmp_path / "none")["commit"] is None


def test_outside_of_git_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(benchmark, "__file__", "/proc/self/benchmark.py")
    assert benchmark.commit() is None


def test_a_note_changes_no_answer(tmp_path):
    (first, *_) = groups(tmp_path)
    assert replace(first, spec=replace(first.spec, note="other")).config() == first.config()
