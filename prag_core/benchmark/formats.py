"""Formats of a benchmark's table: table.json goes in, Markdown and `rich` tables come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.table import Table

from prag_core.benchmark.table import TOTAL

HEADINGS = (
    "sub-task", "mode", "n", "containment, %", "exact match, %", "F1", "F1 in the paper",
    "- in_context", "note",
)  # fmt: skip
EXPLAINED = (
    "Brackets: 95 % intervals, bootstrap over questions (all answers to a question, whatever the "
    "seed, are drawn together). n: answers of all seeds (different questions). `- in_context`: "
    "containment minus that of in_context on the same questions. `shuffled`: another document's "
    "adapter."
)


def _cells(row: Mapping) -> list[str]:
    """Return the texts of one row."""
    mode = row["mode"] + (f" ({row['path']})" if row["path"] else "")
    difference = row["minus_in_context"].get("containment")
    return [
        "" if row["sub_task"] == TOTAL else row["sub_task"],
        mode,
        f"{row['answers']}" + (f" ({row['questions']})" if row["seeds"] > 1 else ""),
        *(_percent(row["metrics"][name]) for name in ("containment", "exact_match")),
        _fraction(row["metrics"]["f1"]),
        "" if row["published"] is None else f"published {_short(row['published'])}",
        _percent(difference, "+") if difference else "",
        row["note"],
    ]


def _percent(value: Mapping, sign: str = "") -> str:
    text = f"{100 * value['mean']:{sign}.1f}"
    if value["low"] is None:
        return text
    return f"{text} ({100 * value['low']:{sign}.1f} to {100 * value['high']:{sign}.1f})"


def _fraction(value: Mapping) -> str:
    text = _short(value["mean"])
    if value["low"] is None:
        return text
    return f"{text} ({_short(value['low'])} to {_short(value['high'])})"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _titled(table: Mapping) -> Iterable[tuple[str, list[list[str]]]]:
    """Yield the title and the texts of each base model and question set, without empty columns."""
    parts: dict[tuple[str, str], list[Mapping]] = {}
    for row in table["rows"]:
        parts.setdefault((row["base_model"], row["question_set"]), []).append(row)
    for (base_model, question_set), rows in parts.items():
        found = "gold documents" if rows[0]["retrieval"] == "gold" else "BM25"
        texts = [list(HEADINGS), *(_cells(row) for row in rows)]
        kept = [i for i in range(len(HEADINGS)) if any(text[i] for text in texts[1:])]
        title = f"{question_set}, {base_model} ({found}, k = {rows[0]['k']})"
        for text in texts[1:]:
            text[0] = text[0] or TOTAL
        yield title, [[text[i] for i in kept] for text in texts]


def format_markdown(table: Mapping) -> str:
    """Return the whole table as Markdown, ready for a README."""
    lines = []
    for title, (headings, *rows) in _titled(table):
        lines += [f"**{title}**", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    lines.append(EXPLAINED)
    if any(row["published"] is not None for row in table["rows"]):
        published = table["published"]
        lines += ["", f"Published: {published['source']}. {published['metric']}"]
    if table["failed"]:
        lines += ["", "Failed:", "", *(f"- {k}: {v}" for k, v in table["failed"].items())]
    return "\n".join(lines) + "\n"


def format_tables(table: Mapping) -> Iterable[Table | str]:
    """Yield one table for `rich` a base model and question set, and what explains them."""
    for title, (headings, *rows) in _titled(table):
        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        parts = headings[0] == HEADINGS[0]  # a sub-task is a line of its own: width is scarce
        for heading in headings[parts:]:
            broken = heading.replace(", ", "\n").replace(" in ", "\nin ").replace("- ", "-\n")
            shown.add_column(broken, no_wrap=heading != HEADINGS[-1])
        for before, row in zip([None, *rows], rows, strict=False):
            if parts and (before is None or before[0] != row[0]):
                shown.add_section()
                shown.add_row(f"[bold]{row[0]}")
            shown.add_row(*(_narrow(text) for text in row[parts:]))
        yield shown
    yield EXPLAINED


def _narrow(text: str) -> str:
    """Put what is in brackets below, as `38.0..44.5` and `.251-.301`."""
    for before, after in (
        (" (", "\n"),
        (")", ""),
        (" to .", "-."),
        (" to ", ".."),
        ("d .", "d\n."),
    ):
        text = text.replace(before, after)
    return text
