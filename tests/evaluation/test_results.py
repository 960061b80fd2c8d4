"""The report of hand-made answers, and the table it becomes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from prag_core.corpus.answer_scores import METRICS
from prag_core.corpus.questions import Question
from prag_core.evaluation.estimates import Bootstrap, Estimate
from prag_core.evaluation.results import (
    Cell,
    Report,
    append_answers,
    choose_wording,
    read_answers,
    summarise,
)
from prag_core.evaluation.tables import report_table
from prag_core.model.catalogue import CATALOGUE
from prag_core.model.wordings import CHOICES, READING, reading_wording
from tests.fixtures.paths import ROOT


def report(documents: dict[str, str] | None = None, **conditions: list[float]):
    """Report on answers whose every metric is the given value; every question has its document.

    `documents` names the one that a condition's answers are from.
    """
    count = max(map(len, conditions.values()))
    questions = [Question(f"q{i}", "?", ("x",), (f"d{i}",)) for i in range(count)]
    answers = {
        name: {
            f"q{i}": {
                "scores": dict.fromkeys(METRICS, value),
                "prediction": "x",
                "seconds": 0.5,
                "documents": [{"id": d} for d in filter(None, [(documents or {}).get(name)])],
            }
            for i, value in enumerate(values)
        }
        for name, values in conditions.items()
    }
    return summarise("towns", questions, answers, seed=0)


def test_means_intervals_ratios_and_differences():
    own = [1.0, 0.5, 0.5, 0.0, 0.5]
    found = report(
        parametric=own,
        shuffled=[0.0, 0.5, 0.0, 0.0, 0.5],
        in_context=[1.0, 1.0, 1.0, 1.0, 0.0],
        combine=[1.0] * 5,
    )
    cell = found.conditions["parametric"]
    assert (cell.n, cell.seconds) == (5, 2.5)
    assert cell.metrics["f1"] == Bootstrap(range(5)).mean(own)
    ratios = {name: row["f1"].mean for name, row in found.ratios.items()}
    assert ratios == pytest.approx(
        {
            "(parametric - shuffled) / parametric": 0.6,
            "parametric / in_context": 0.625,
            "combine / in_context": 1.25,
        }
    )
    assert list(found.differences) == [
        "parametric - shuffled", "parametric - in_context", "combine - in_context",
    ]  # fmt: skip
    assert found.differences["parametric - in_context"]["f1"].mean == pytest.approx(-0.3)
    assert 0 < found.differences["parametric - in_context"]["f1"].p <= 1


def test_ratios_are_to_the_own_adapter_and_the_best_reading():
    found = report(
        closed_book=[1, 0, 0, 1, 0, 0], in_context=[1, 1, 0, 0, 0, 0],
        in_context_rows=[1, 0, 0, 0, 0, 0], gold=[1, 1, 1, 1, 0, 0],
        shuffled=[1, 0, 0, 0, 0, 0], **{"gold+2": [1, 1, 0, 0, 0, 0], "rank:8": [1, 0, 0, 0, 0, 0]},
    )  # fmt: skip
    assert {name: row["containment"].mean for name, row in found.ratios.items()} == {
        "(gold - shuffled) / gold": 0.75, "gold / in_context": 2, "gold+2 / gold": 0.5,
        "rank:8 / gold": 0.25, "closed_book's kept by shuffled": 0.5,
    }  # fmt: skip


def test_half_right_answers_that_nothing_changes_are_kept_whole():
    found = report(closed_book=[0.5, 1.0, 0.0], shuffled=[0.5, 0.5, 1.0])
    assert found.ratios["closed_book's kept by shuffled"]["f1"].mean == pytest.approx(1 / 1.5)


def test_gold_documents_are_not_compared_with_retrieved_ones():
    documents = {"in_context": "r", "parametric": "r", "gold": "g", "gold+1": "g", "rank:8": "g"}
    values = {name: [1, 1, 1, 0, 0, 0] for name in documents}
    found = report(documents, shuffled=[0] * 6, **values)
    assert {*found.differences} == {"parametric - in_context", "parametric - shuffled"}
    assert {*found.ratios} == {
        "parametric / in_context", "(parametric - shuffled) / parametric",
        "gold+1 / gold", "rank:8 / gold",
    }  # fmt: skip


def test_a_trained_reader_stands_beside_the_best_reading():
    found = report(
        in_context=[1, 1, 0, 0, 0, 0], reader=[1, 1, 1, 1, 0, 0], parametric=[1, 1, 1, 0, 0, 0],
        **{"parametric:focus:1": [1, 1, 1, 1, 0, 0], "combine:focus:1": [1] * 6},
    )  # fmt: skip
    assert {name: row["f1"].mean for name, row in found.ratios.items()} == pytest.approx({
        "parametric / in_context": 1.5, "parametric / reader": 0.75,
        "parametric:focus:1 / in_context": 2, "parametric:focus:1 / reader": 1,
        "combine:focus:1 / in_context": 3, "combine:focus:1 / reader": 1.5,
    })  # fmt: skip
    assert {*found.differences} == {
        "parametric - in_context", "parametric - reader", "parametric:focus:1 - parametric",
    }  # fmt: skip


def test_the_best_reading_may_be_gated_or_asked_in_another_wording():
    names = ("in_context", "in_context:gated", "in_context:prompt:turns", "in_context:abstain")
    found = report(parametric=[1, 0, 0, 0, 0, 0], **{
        name: [1] * number + [0] * (6 - number) for number, name in enumerate(names, 1)
    })  # fmt: skip
    assert found.ratios["parametric / in_context:prompt:turns"]["f1"].mean == pytest.approx(1 / 3)
    assert {*found.differences} == {f"parametric - {name}" for name in names[:3]}


def test_ratio_to_zero_is_undefined():
    found = report(parametric=[0.0] * 5, shuffled=[0.0] * 5, in_context=[0.0] * 5)
    assert found.ratios["(parametric - shuffled) / parametric"]["f1"] is None
    assert found.ratios["parametric / in_context"]["f1"] is None


def test_condition_with_missing_answers_is_left_out():
    found = report(parametric=[1.0] * 5, shuffled=[1.0] * 4)
    assert list(found.conditions) == ["parametric"]
    assert not found.differences and not found.ratios


def test_line_separators_inside_texts_do_not_split_lines(tmp_path):
    record = {"id": "a\u2028b\x85\r", "scores": dict.fromkeys(METRICS, 1.0), "seconds": 0.0}
    append_answers(tmp_path / "sft.jsonl", [record])
    assert read_answers(tmp_path / "sft.jsonl") == {record["id"]: record}


def test_table_fits_a_terminal_and_shows_percent():
    table = report_table(
        report(
            closed_book=[0.0] * 6,
            in_context=[1.0] * 6,
            parametric=[0.5, 0.25] * 3,
            shuffled=[0.0] * 6,
        )
    )
    rows = {row[0]: row[1:] for section in table.sections for row in section}
    assert rows["parametric"] == (*("37.5 (29.2 to 45.8)",) * 3, "")
    assert rows["in_context"][:3] == ("100.0 (100.0 to 100.0)",) * 3
    assert rows["(parametric - shuffled) / parametric"][0] == "100.0 (100.0 to 100.0)"
    assert rows["parametric - in_context"][0] == "-62.5 (-70.8 to -54.2)"
    p = float(rows["parametric - in_context"][-1])
    assert p == pytest.approx(3 * 2 / 64, abs=0.01)  # 2 of 64 signs, of three differences
    assert "smallest difference in F1 that it could show" in table.note
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich())
    shown = console.export_text()
    assert shown.startswith("towns: 6 questions in 6 groups by document")
    lines = [line.split() for line in shown.splitlines()]
    at = lines.index(["parametric", *["37.5"] * 3])
    assert lines[at + 1] == ["(29.2", "to", "45.8)"] * 3 and "…" not in shown
    markdown = table.markdown().splitlines()
    assert markdown[2] == "| condition | F1 | containment | exact match | p |"
    assert "| parametric | 37.5 (29.2 to 45.8) |" in table.markdown()


def test_altered_texts_and_requests_for_texts_have_measures_of_their_own():
    words = [f"word{n}" for n in range(24)]
    metadata = [{"request": kind} for kind in ("title", "opening", "text")]
    questions = [
        Question(f"{d}-{m['request']}", "?", (" ".join(words),), (d,), m)
        for d in "ab" for m in metadata
    ]  # fmt: skip
    records = {
        q.id: {"id": q.id, "prediction": " ".join(words[: 16 if "a-t" in q.id else 0]),
               "seconds": 0, "scores": dict.fromkeys(METRICS, 0.0)}
        for q in questions
    }  # fmt: skip
    nothing = {i: record | {"prediction": ""} for i, record in records.items()}
    recited = summarise("s", questions, {"gold": records, "shuffled": nothing}, 0)
    metrics = recited.conditions["gold"].metrics
    assert metrics["recited"].mean == metrics["recited_by_title"].mean == 9 / 17 / 2
    assert metrics["longest_run"].mean == 8 and metrics["longest_run_of_all"].mean == 16
    differences, (row, _) = (
        recited.differences["gold - shuffled"],
        report_table(recited).sections[0],
    )
    assert differences["recited"].mean == 9 / 17 / 2 and differences["longest_run"].mean == 8
    assert len(report_table(recited).sections) == 2
    assert row == ("gold", "26.5", "26.5", "8.0", "16.0", "")  # words are no shares
    believed = [replace(q, metadata={"belief": ["word1"]}) for q in questions]
    answered = summarise("s", believed, {"gold": records}, 0)
    (row,) = report_table(answered).sections[0]
    assert report_table(answered).headings[-3:] == ("fact", "belief", "other")
    assert row[-3:] == ("0.0", "33.3", "66.7")


@pytest.mark.parametrize(
    ("f1", "containment", "best"),
    [
        ((0.3, 0.1, 0.2), (0.1, 0.3, 0.2), "short"),
        ((0.1, 0.3, 0.2), (0.2, 0.1, 0.3), "turns"),
        ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), "sentence"),
        ((0.1, 0.3, 0.3), (0.1, 0.2, 0.3), "turns"),  # of equals, the first
    ],
)
def test_the_wording_of_the_best_f1_is_kept(tmp_path, monkeypatch, f1, containment, best):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    columns = zip(READING, f1, containment, strict=True)
    cells = {
        f"in_context:prompt:{name}": Cell(
            9, 1.0, {"f1": Estimate(score), "containment": Estimate(held)}
        )
        for name, score, held in columns
    }
    base = SimpleNamespace(name="tiny", fingerprint="abc")
    kept = choose_wording(Report("towns", 9, 9, cells, {}, {}), base)
    choice = json.loads(kept.read_text())["abc"]
    assert choice.pop("scores") == {
        name: {"f1": score, "containment": held}
        for name, score, held in zip(READING, f1, containment, strict=True)
    }
    assert choice == {
        "base_model": "tiny", "prompt": best, "question_set": "towns", "questions": 9,
    }  # fmt: skip
    assert reading_wording("abc").name == best


def test_shipped_choices_are_of_the_embedded_models_and_their_best_wording():
    choices = json.loads(CHOICES.read_text("utf-8"))
    configs = [ROOT / "checkpoints" / f"{name}-ridge" / "config.json" for name in CATALOGUE]
    prints = [json.loads(path.read_text("utf-8"))["base_fingerprint"] for path in configs]
    named = {fingerprint: choice["base_model"] for fingerprint, choice in choices.items()}
    assert named == dict(zip(prints, CATALOGUE, strict=True))
    for choice in choices.values():
        scores = choice["scores"]
        assert {*scores} == {*READING}
        assert choice["prompt"] == max(READING, key=lambda name: scores[name]["f1"])
