"""The report of hand-made answers, and the table it becomes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prag_core.corpus.answer_scores import METRICS
from prag_core.evaluation.estimates import bootstrap_interval
from prag_core.evaluation.results import append_answers, format_table, read_answers, summarise


def fill(folder, **modes: list[float]) -> list[str]:
    """Write answers whose every metric is the given value; return the question ids."""
    for mode, values in modes.items():
        records = [
            {"id": f"q{i}", "scores": dict.fromkeys(METRICS, value), "seconds": 0.5}
            for i, value in enumerate(values)
        ]
        append_answers(folder / f"{mode}.jsonl", records)
    return [f"q{i}" for i in range(len(next(iter(modes.values()))))]


def test_means_intervals_ratios_and_differences(tmp_path):
    ids = fill(
        tmp_path,
        parametric=[1.0, 0.5, 0.5, 0.0, 0.5],
        shuffled=[0.0, 0.5, 0.0, 0.0, 0.5],
        in_context=[1.0, 1.0, 1.0, 1.0, 0.0],
        combine=[1.0] * 5,
    )
    report = summarise("set", ids, tmp_path, seed=0)
    own = report.modes["parametric"]
    assert (own.n, own.seconds, own.metrics["f1"].mean) == (5, 2.5, 0.5)
    low, high = bootstrap_interval([1.0, 0.5, 0.5, 0.0, 0.5])
    assert (own.metrics["f1"].low, own.metrics["f1"].high) == (low, high)
    assert report.ratios["specificity"]["f1"] == pytest.approx(0.6)
    assert report.ratios["parametric / in_context"]["f1"] == pytest.approx(0.625)
    assert report.ratios["combine / in_context"]["f1"] == pytest.approx(1.25)
    assert list(report.differences) == ["parametric - shuffled", "parametric - in_context"]
    assert report.differences["parametric - in_context"]["f1"].mean == pytest.approx(-0.3)


def test_ratio_to_zero_is_undefined(tmp_path):
    ids = fill(tmp_path, parametric=[0.0] * 5, shuffled=[0.0] * 5, in_context=[0.0] * 5)
    report = summarise("set", ids, tmp_path, seed=0)
    assert report.ratios["specificity"]["f1"] is None
    assert report.ratios["parametric / in_context"]["f1"] is None


def test_mode_with_missing_answers_is_left_out(tmp_path):
    ids = fill(tmp_path, parametric=[1.0] * 5, shuffled=[1.0] * 4)
    report = summarise("set", ids, tmp_path, seed=0)
    assert list(report.modes) == ["parametric"]
    assert not report.differences and not report.ratios


def test_line_separators_inside_texts_do_not_split_lines(tmp_path):
    record = {"id": "a\u2028b\x85\r", "scores": dict.fromkeys(METRICS, 1.0), "seconds": 0.0}
    append_answers(tmp_path / "sft.jsonl", [record])
    assert read_answers(tmp_path / "sft.jsonl") == {record["id"]: record}


def test_table_fits_a_terminal_and_shows_percent(tmp_path):
    ids = fill(
        tmp_path,
        closed_book=[0.0] * 6,
        in_context=[1.0] * 6,
        parametric=[0.5, 0.25] * 3,
        shuffled=[0.0] * 6,
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(format_table(summarise("towns", ids, tmp_path, seed=0)))
    shown = console.export_text().splitlines()
    assert "towns: 6 questions" in shown[0]
    rows = [line.split() for line in shown]
    at = rows.index(["parametric", *["37.5"] * len(METRICS)])
    assert rows[at + 1] == ["29.2..45.8"] * len(METRICS)
    assert rows[rows.index(["in_context", *["100.0"] * 5]) + 1] == ["100.0..100.0"] * 5
    assert ["specificity", *["100"] * 5] in rows
    assert ["parametric", "-", *["-62.5"] * 5] in rows
    assert "…" not in "".join(shown)
