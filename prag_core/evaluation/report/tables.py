"""Tables of a comparison: its report goes in, tables of text come out, for terminal and page alike.

A part that the report lacks has no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prag_core.evaluation.report.wording import (
    MERGE_NOTES,
    METRIC_NAMES,
    MISSING,
    MODE_NOTES,
    SHOWN_METRICS,
    Cell,
    condition,
    difference_label,
    duration,
    estimate_cell,
    is_control,
    known,
    label,
    ordered_modes,
    path_of,
    size,
)


@dataclass(frozen=True)
class Row:
    """One row: what it is about, its cells, a note, and whether a line is drawn before it."""

    head: str
    cells: tuple[Cell, ...]
    note: str = ""
    starts_group: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table under a title; the first column is named `head`, the caption says units."""

    key: str
    title: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str


def comparison_tables(report: dict) -> dict[str, ReportTable]:
    """Return the tables of the parts that the report holds, by key and in reading order."""
    makers: tuple[Callable[[dict], ReportTable | None], ...] = (
        _quality,
        _differences,
        _controls,
        _knowledge,
        _similarity,
        _side_effects,
        _merging,
        _cost,
    )
    tables = (make(report) for make in makers)
    return {table.key: table for table in tables if table and table.rows}


def _quality(report: dict) -> ReportTable | None:
    part = report.get("quality")
    if not part:
        return None
    rows, group = [], None
    for name in ordered_modes(part["modes"]):
        kind = "control" if is_control(name) else path_of(name)
        metrics = part["modes"][name]["metrics"]
        cells = tuple(estimate_cell(metrics.get(m)) for m in SHOWN_METRICS)
        note = ("control: " if is_control(name) else "") + MODE_NOTES.get(condition(name), "")
        rows.append(Row(label(name), cells, note, group is not None and kind != group))
        group = kind
    return ReportTable(
        "quality",
        "Quality by mode",
        "mode",
        tuple(METRIC_NAMES[m] for m in SHOWN_METRICS),
        tuple(rows),
        f"in %, with 95 % intervals; {report.get('questions') or 0:,} questions",
    )


def _differences(report: dict) -> ReportTable | None:
    return _difference_table(report, "differences", "Differences", controls=False)


def _controls(report: dict) -> ReportTable | None:
    return _difference_table(report, "controls", "Adapters against controls", controls=True)


def _difference_table(report: dict, key: str, title: str, controls: bool) -> ReportTable | None:
    found = (report.get("quality") or {}).get("differences") or ()
    rows = tuple(
        Row(
            difference_label(row["a"], row["b"]),
            tuple(estimate_cell(row["metrics"].get(m), sign="+") for m in SHOWN_METRICS),
        )
        for row in found
        if is_control(row["b"]) == controls
    )
    caption = (
        "in points, paired by question, with 95 % intervals; p of a two-sided permutation test "
        "(documents are drawn, and signs flipped, with all their questions)"
    )
    columns = tuple(METRIC_NAMES[m] for m in SHOWN_METRICS)
    return ReportTable(key, title, "difference", columns, rows, caption)


def _knowledge(report: dict) -> ReportTable | None:
    part = report.get("knowledge")
    if not part:
        return None
    text, answers, gap = (part.get(key) or {} for key in ("text", "answers", "gap_closed"))
    conditions = [("no adapter", "none", "closed_book", ""), ("in_context", "", "in_context", "")]
    conditions[1:1] = [
        (f"{path}, {words}", f"{path}/{own}", f"{path}/{mode}", path if own == "own" else "")
        for path in report["paths"]
        for own, mode, words in (
            ("own", "parametric", "own"),
            ("other", "shuffled", "another's"),
        )
    ]
    rows = []
    for head, of_text, of_answers, path in conditions:
        pair = tuple(
            estimate_cell(values.get(name), 2, 1)
            for values, name in ((text, of_text), (answers, of_answers))
        )
        if all(cell.text == MISSING for cell in pair):
            continue
        cells = (*pair, estimate_cell(gap.get(path)))
        if not answers:
            cells = cells[:1]
        rows.append(Row(head, cells, "document in the prompt" if head == "in_context" else ""))
    columns = ("document's text", "golden answers", "gap closed, %")[: 3 if answers else 1]
    caption = "negative log-likelihood in nats a token, lower is better, with 95 % intervals"
    if answers:
        caption += "; gap closed: share of what reading the document gains that its adapter gains"
    return ReportTable(
        "knowledge", "What adapters know", "condition", columns, tuple(rows), caption
    )


def _similarity(report: dict) -> ReportTable | None:
    part = report.get("similarity")
    if not part:
        return None
    found = [(f"{path}, different documents", v) for path, v in (part.get("within") or {}).items()]
    found += [(f"between paths, {name}", v) for name, v in (part.get("between") or {}).items()]
    rows = []
    for head, values in found:
        cell = estimate_cell(values, 3, 1)
        rows.append(Row(head, (Cell(cell.text), Cell(cell.detail or MISSING))))
    caption = "cosine of the weight updates; range: 5th to 95th percentile of the pairs"
    if known(part.get("error")):
        caption += f"; sketched, off by {part['error']:.3f} at most where checked"
    columns = ("cosine", "range")
    return ReportTable("similarity", "Likeness of adapters", "pairs", columns, tuple(rows), caption)


def _side_effects(report: dict) -> ReportTable | None:
    part = report.get("side_effects")
    if not part:
        return None
    rows = tuple(
        Row(
            path,
            (
                estimate_cell(found.get("text_without"), 2, 1),
                estimate_cell(found.get("text_with"), 2, 1),
                estimate_cell(found.get("change"), sign="+"),
                estimate_cell(found.get("changed_answers")),
                estimate_cell(found.get("kept")),
            ),
        )
        for path, found in part.items()
    )
    columns = ("text without", "text with", "change, %", "changed, %", "kept, %")
    caption = (
        "unrelated text: nats a token without and with an adapter; unrelated questions: share "
        "answered otherwise, and share still right of those right before"
    )
    return ReportTable("side_effects", "Side effects", "path", columns, rows, caption)


def _merging(report: dict) -> ReportTable | None:
    part = report.get("merging")
    if not part:
        return None
    rows, group = [], None
    for name, points in part["series"].items():
        cells = tuple(estimate_cell(point) for point in points)
        starts = group is not None and path_of(name) != group
        rows.append(Row(label(name), cells, MERGE_NOTES.get(condition(name), ""), starts))
        group = path_of(name)
    metric = METRIC_NAMES.get(part["metric"], part["metric"])
    caption = f"{metric} in % over k merged documents, one of them gold; {part['n']:,} questions"
    columns = tuple(f"k = {k}" for k in part["k"])
    return ReportTable("merging", "Merging", "weights", columns, tuple(rows), caption)


def _cost(report: dict) -> ReportTable | None:
    part = report.get("cost")
    if not part:
        return None
    columns = ("to make", "size", "peak memory", "to answer", "break-even")
    rows = []
    for path in report["paths"]:
        found = part.get(path)
        if not found:
            continue
        asked = found.get("question_seconds") or {}
        cells = (
            Cell(duration(found.get("seconds"))),
            Cell(size(found.get("bytes"))),
            Cell(size(found.get("peak_bytes"))),
            Cell(
                duration(asked.get("parametric")),
                f"combine {duration(asked['combine'])}" if known(asked.get("combine")) else "",
            ),
            Cell(_break_even(found, part, asked)),
        )
        rows.append(Row(path, cells))
    for name, seconds in (part.get("questions") or {}).items():
        cells = [Cell(MISSING)] * len(columns)
        cells[3] = Cell(duration(seconds))
        rows.append(Row(name, tuple(cells), MODE_NOTES.get(name, "")))
    caption = (
        "time to make a document's adapter and to answer a question; "
        "break-even: questions a document after which making its adapter is paid back by answers "
        "that are faster than in_context"
    )
    return ReportTable("cost", "Cost", "path or mode", columns, tuple(rows), caption)


def _break_even(found: dict, part: dict, asked: dict) -> str:
    """Format questions a document; `never` only where both sides were measured."""
    if known(found.get("break_even")):
        return f"{found['break_even']:,.1f}"
    measured = known(asked.get("parametric")) and known(
        (part.get("questions") or {}).get("in_context")
    )
    return "never" if measured else MISSING
