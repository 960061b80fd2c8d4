import io

import pytest
from rich.console import Console

from prag_core.evaluation.conditions import reading_order
from prag_core.evaluation.report.tables import (
    BYTES,
    SECONDS,
    comparison_tables,
    in_unit,
    terminal_lines,
)
from tests.fixtures.comparisons import HOSTILE, make_report

PARTS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost", "disagreements")


def printed(report: dict) -> str:
    console = Console(file=io.StringIO(), width=80)
    for line in terminal_lines(report):
        console.print(line)
    return console.file.getvalue()


@pytest.mark.parametrize("paths", [("trained",), ("trained", "generated", "foreign")])
@pytest.mark.parametrize("questions", [0, 3, 600])
def test_fits_80_columns_uncut(paths, questions):
    text = printed(make_report(paths, questions=questions))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(path in text for path in paths)


def test_numbers_are_shown_with_interval_and_p():
    tables = comparison_tables(make_report())
    rows = {row[0]: row for section in tables["quality"].sections for row in section}
    assert rows["generated, parametric"][2] == "55.0 (51.0 to 59.0)"
    rows = {row[0]: row for section in tables["differences"].sections for row in section}
    assert rows["parametric, generated - trained"][2:] == (
        "+18.3 (+13.3 to +23.3)", "+14.6 (+9.6 to +19.6)", "< 0.001",
    )  # fmt: skip
    assert "there is none in F1, from" in tables["differences"].note
    assert "is 7.0 points" in tables["differences"].note
    few = comparison_tables(make_report(questions=3))["differences"]
    assert "smallest" not in few.note and {row[-1] for rows in few.sections for row in rows} == {
        "-"
    }
    text = printed(make_report())
    assert "55.0" in text and "Note: These numbers are invented." in text


def test_shared_conditions_come_first_and_controls_last():
    sections = comparison_tables(make_report())["quality"].sections
    assert [rows[0][0] for rows in sections] == [
        "closed_book", "trained, parametric", "generated, parametric", "sft",
    ]  # fmt: skip
    names = ["sft", "a/shuffled", "a/parametric", "closed_book", "a/mean", "a/combine"]
    ordered = ["closed_book", "a/parametric", "a/combine", "sft", "a/shuffled", "a/mean"]
    assert reading_order(names) == ordered


@pytest.mark.parametrize("part", PARTS)
def test_an_absent_part_is_left_out_alone(part):
    whole = set(comparison_tables(make_report()))
    left = set(comparison_tables(make_report(**{part: None})))
    gone = {"quality": {"quality", "differences", "ratios"}}
    assert whole - left == gone.get(part, {part})
    absent = make_report()
    del absent[part]
    assert set(comparison_tables(absent)) == left


def test_rows_are_as_long_as_their_headings():
    for questions in (0, 600):
        report = make_report(("trained", "generated", "foreign"), questions=questions)
        for table in comparison_tables(report).values():
            rows = [row for section in table.sections for row in section]
            assert {len(row) for row in rows} == {len(table.headings)}


def test_foreign_text_is_no_markup():
    report = make_report(notes=["[bold]note[/bold] [/nothing]", HOSTILE])
    text = printed(report)
    assert "[red]" in text
    assert "[bold]note[/bold] [/nothing]" in text


def test_break_even_is_never_only_where_it_was_measured():
    rows = comparison_tables(make_report(("trained", "foreign")))["cost"].sections[0]
    assert [row[-2:] for row in rows] == [("10.8", "never"), ("never", "never"), ("", "")]
    assert rows[-1][:3] == ("kv_cache", "50.0 ms", "3.50 MB")
    rows = comparison_tables(make_report(questions=0))["cost"].sections[0]
    assert [row[-1] for row in rows] == ["-", "-", ""]


def test_published_figures_are_marked_so():
    note = comparison_tables(make_report())["cost"].note
    told = "Published, not measured here: an invented engine is 3 times faster (Nobody, 2001)."
    assert told in note


def test_a_golden_answer_is_named_once_and_right_answers_are_marked():
    report = make_report()
    report["disagreements"][0] |= {"golden_answers": ["x", "x"], "answers": {"trained": ""}}
    row = comparison_tables(report)["disagreements"].sections[0][0]
    assert row[2:] == ("x", "✓ (nothing)", "✗ (nothing)")


def test_units():
    texts = [in_unit(s, SECONDS) for s in (0.004, 0.084, 0.11, 12.34, 90, 7200, None)]
    assert texts == ["4.00 ms", "84.0 ms", "0.11 s", "12.3 s", "1.50 min", "2.00 h", "-"]
    assert [in_unit(n, BYTES) for n in (123, 2_950_000, 3.1e9)] == ["123 B", "2.95 MB", "3.10 GB"]
