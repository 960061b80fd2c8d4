import io

import pytest
from rich.console import Console

from prag_core.evaluation.report.tables import comparison_tables
from prag_core.evaluation.report.terminal import format_comparison
from prag_core.evaluation.report.verdict import key_numbers, verdict
from prag_core.evaluation.report.wording import (
    duration,
    estimate_cell,
    number,
    ordered_modes,
    p_text,
    size,
)
from tests.fixtures.comparisons import HOSTILE, estimate, make_report

PARTS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost", "disagreements")


def printed(report: dict) -> str:
    console = Console(file=io.StringIO(), width=80)
    for renderable in format_comparison(report):
        console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("paths", [("trained",), ("trained", "generated", "refined")])
@pytest.mark.parametrize("questions", [0, 3, 600])
def test_fits_80_columns_uncut(paths, questions):
    text = printed(make_report(paths, questions=questions))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(path in text for path in paths)


def test_numbers_are_shown_with_interval_and_p():
    text = printed(make_report())
    assert "55.0" in text and "51.0..59.0" in text
    assert "+18.3 p<.001" in text and "+13.3..+23.3" in text
    assert "Note: These numbers are invented." in text


@pytest.mark.parametrize("part", PARTS)
def test_an_absent_part_is_left_out_alone(part):
    whole = set(comparison_tables(make_report()))
    left = set(comparison_tables(make_report(**{part: None})))
    gone = {"quality": {"quality", "differences", "controls"}, "disagreements": set()}
    assert whole - left == gone.get(part, {part})
    absent = make_report()
    del absent[part]
    assert set(comparison_tables(absent)) == left


def test_nothing_but_the_documents():
    text = printed(make_report(**dict.fromkeys(PARTS), questions=0))
    assert "invented_set: Trained and generated adapters of 40 documents" in text
    assert "question" not in text


def test_foreign_text_is_no_markup():
    report = make_report(title=HOSTILE, notes=["[bold]note[/bold] [/nothing]"])
    text = printed(report)
    assert "[red]" in text
    assert "[bold]note[/bold] [/nothing]" in text


def with_difference(mean: float, p: float | None) -> list[str]:
    report = make_report()
    for row in report["quality"]["differences"]:
        certain = p is not None
        row["metrics"]["containment"] = estimate(mean, 0.03, certain) | {"p": p}
    return verdict(report)


def test_verdict_follows_the_numbers():
    better, read, carried, cost = verdict(make_report())
    assert better.startswith("Generated adapters answer better than trained ones: 55.0 %")
    assert "+18.3 points (+13.3 to +23.3; p < .001)" in better
    assert "48.3 %" in read
    assert carried.startswith("Generated and trained adapters carry their documents")
    assert cost.endswith("takes 80 ms to make, a trained one 1.40 s (18 times as long).")


def test_verdict_does_not_claim_what_may_be_chance():
    better, read, carried, _ = with_difference(0.01, 0.4)
    assert better.startswith("No difference is shown between generated and trained adapters")
    assert "may be chance" in better and "may be chance" in read
    assert carried.startswith("It is not shown that generated and trained adapters carry")
    few = with_difference(0.2, None)
    assert "too few questions" in few[0]
    assert few[2].startswith("It is not shown")
    unpaired = make_report()
    unpaired["quality"]["differences"] = []
    assert verdict(unpaired)[0].endswith("the golden one.")


def test_verdict_turns_a_difference_round():
    report = make_report()
    row = report["quality"]["differences"][-2]
    assert (row["a"], row["b"]) == ("generated/parametric", "trained/parametric")
    row["a"], row["b"] = row["b"], row["a"]
    row["metrics"]["containment"] = {"mean": -0.2, "low": -0.3, "high": -0.1, "p": 0.004}
    assert "+20.0 points (+10.0 to +30.0; p = .004)" in verdict(report)[0]


def test_verdict_without_questions_speaks_of_the_text():
    text, cost = verdict(make_report(questions=0))
    assert "3.10 nats a token, 1.20 with its trained adapter (another document's: 3.00)" in text
    assert cost.startswith("A generated adapter takes")


def test_key_numbers_name_the_best_path_first():
    numbers = key_numbers(make_report(("trained", "generated", "refined")))
    assert [name for name, *_ in numbers[:3]] == ["refined", "generated", "trained"]
    assert numbers[-1] == ("time to make one", "18 times", "trained over generated")
    assert len(key_numbers(make_report(("trained",), questions=0))) == 0


def test_controls_come_last():
    names = ["sft", "a/shuffled", "a/parametric", "closed_book", "a/mean", "a/combine"]
    ordered = ordered_modes(dict.fromkeys(names))
    assert ordered == ["closed_book", "a/parametric", "a/combine", "sft", "a/shuffled", "a/mean"]


def test_break_even_is_never_only_where_it_was_measured():
    report = make_report(("trained", "refined"))
    rows = comparison_tables(report)["cost"].rows
    assert [row.cells[-1].text for row in rows[:2]] == ["10.8", "never"]
    rows = comparison_tables(make_report(questions=0))["cost"].rows
    assert [row.cells[-1].text for row in rows] == ["–", "–"]


def test_values_that_are_missing_are_dashes():
    missing = [None, {}, estimate(float("nan")), {"mean": None, "low": None, "high": None}]
    assert {estimate_cell(value).text for value in missing} == {"–"}
    assert estimate_cell({"mean": 0.5, "low": float("nan"), "high": 1.0}).detail == ""


def test_what_rounds_to_nothing_has_no_sign():
    cell = estimate_cell({"mean": -0.0001, "low": -0.02, "high": 0.0002}, sign="+")
    assert (cell.text, cell.detail) == ("0.0", "-2.0 to 0.0")
    assert number(-10, 0) == "-10" and number(0.1, 1, "+") == "+0.1"


def test_units_and_p_values():
    assert [duration(s) for s in (0.004, 0.084, 0.11, 12.34, 90, 7200, None)] == [
        "4.0 ms",
        "84 ms",
        "0.11 s",
        "12.3 s",
        "1.5 min",
        "2.0 h",
        "–",
    ]
    assert [size(n) for n in (12, 2_950_000, 3.1e9)] == ["12 B", "2.95 MB", "3.10 GB"]
    assert [p_text(p) for p in (0.0002, 0.003, 0.42, 1)] == [
        "p < .001",
        "p = .003",
        "p = .420",
        "p = 1",
    ]
