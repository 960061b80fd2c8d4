"""Tables of a comparison: its report goes in, one table a part comes out, for every medium alike.

A part that the report lacks has no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from rich.console import RenderableType
from rich.text import Text

from prag_core.evaluation.conditions import (
    condition_name,
    is_control,
    label,
    path_of,
    reading_order,
)
from prag_core.evaluation.estimates import Estimate, format_estimate, known
from prag_core.evaluation.tables import (
    EXPLAINED,
    SHOWN,
    TESTED,
    Table,
    detectable_note,
    difference_rows,
    metric_rows,
)

MISSING = "-"
INTERVAL_COLUMNS = 5  # in a terminal of 80 columns
RIGHT, WRONG = "✓", "✗"
# (below, one unit, its name), the smallest first
SECONDS = ((0.1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "min"), (float("inf"), 3600, "h"))
BYTES = ((1e3, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (float("inf"), 1e9, "GB"))


def comparison_tables(report: Mapping) -> dict[str, Table]:
    """Return the tables of the parts that the report holds, by key and in reading order.

    Args:
        report: report.json of `prag compare`; parts may be missing.
    """
    makers = {
        "quality": (_quality, "quality"),
        "differences": (_differences, "quality"),
        "ratios": (_ratios, "quality"),
        "knowledge": (_knowledge, "knowledge"),
        "similarity": (_similarity, "similarity"),
        "side_effects": (_side_effects, "side_effects"),
        "merging": (_merging, "merging"),
        "cost": (_cost, "cost"),
        "disagreements": (_disagreements, "disagreements"),
    }  # and the part that each is of
    tables = {k: make(report, report[p]) for k, (make, p) in makers.items() if report.get(p)}
    return {key: table for key, table in tables.items() if any(table.sections)}


def _quality(report: Mapping, part: Mapping) -> Table:
    cells = part["conditions"]
    # One section for what all paths share, one for each path, one for the controls.
    kinds = groupby(reading_order(cells), lambda n: "control" if is_control(n) else path_of(n))
    sections = tuple(
        metric_rows({label(n): cells[n]["metrics"] for n in names}) for _, names in kinds
    )
    title = f"Quality: {report['questions']:,} questions"
    return Table(title, ("condition", *SHOWN.values()), sections, EXPLAINED)


def _differences(report: Mapping, part: Mapping) -> Table:
    differences = {
        label(name): {metric: Estimate(**fields) for metric, fields in metrics.items()}
        for name, metrics in part["differences"].items()
    }
    tested = TESTED.format(next(iter(SHOWN.values())), "that stand together")  # as the rows are
    rows, note = difference_rows(differences), f"In points. {tested} {detectable_note(differences)}"
    headings = ("difference", *SHOWN.values(), "p")
    return Table("Differences", headings, _by_path(rows), note.strip())


def _ratios(report: Mapping, part: Mapping) -> Table:
    # None where the divisor is 0: nothing was right that could be kept.
    ratios = {label(name): metrics for name, metrics in part["ratios"].items()}
    return Table(
        "Kept", ("ratio of means", *SHOWN.values()), _by_path(metric_rows(ratios)), "In %."
    )


def _knowledge(report: Mapping, part: Mapping) -> Table:
    text, answers, gap = (part.get(key) or {} for key in ("text", "answers", "gap_closed"))
    rows = []
    for name in reading_order(answers or text):  # answers have one condition more
        losses = [format_estimate(values.get(name), 1, 2) for values in (text, answers)]
        share = gap.get(path_of(name)) if condition_name(name) == "parametric" else None
        rows.append((label(name), *losses, format_estimate(share)))
    headings = ("condition", "document's text", "golden answers", "gap closed, %")
    width = 4 if answers else 2  # without questions there are no answers to score
    note = (
        "Negative log-likelihood in nats a token, lower is better. Gap closed: share of what "
        "reading the document gains for answers that its adapter gains."
    )
    return Table("Knowledge", headings[:width], (tuple(row[:width] for row in rows),), note)


def _similarity(report: Mapping, part: Mapping) -> Table:
    # Here low and high are percentiles over pairs, no interval of the mean.
    within, between = (part.get(key) or {} for key in ("within", "between"))
    sections = (
        tuple((f"{p}, different documents", format_estimate(v, 1, 3)) for p, v in within.items()),
        tuple((f"between paths, {n}", format_estimate(v, 1, 3)) for n, v in between.items()),
    )
    note = "Cosine of the weight updates, with its 5th and 95th percentile over pairs."
    if known(part.get("error")):
        note += f" Sketched: off by {part['error']:.3f} at most where checked."
    return Table("Likeness of adapters", ("pairs", "cosine"), tuple(filter(None, sections)), note)


def _side_effects(report: Mapping, part: Mapping) -> Table:
    rows = tuple(
        (
            path,
            *(format_estimate(effect.get(key), 1, 2) for key in ("text_without", "text_with")),
            format_estimate(effect.get("change"), sign="+"),
            *(format_estimate(effect.get(key)) for key in ("changed_answers", "kept")),
        )
        for path, effect in part.items()
    )
    headings = ("path", "text without", "text with", "change, %", "changed, %", "kept, %")
    note = (
        "Another document's adapter. Text: nats a token without and with it. Questions, asked in "
        "the same prompt: share answered otherwise than without it, and share of the right answers "
        "that it keeps."
    )
    return Table("Side effects", headings, (rows,), note)


def _merging(report: Mapping, part: Mapping) -> Table:
    rows = [
        (label(name), *(format_estimate(points[str(k)]) for k in part["k"]))
        for name, points in part["series"].items()
    ]
    note = (
        f"Containment in % over k documents, one of them gold: in the prompt, or their adapters "
        f"merged with these weights; {part['n']:,} questions."
    )
    headings = ("weights", *(f"k = {k}" for k in part["k"]))
    return Table("Merging", headings, _by_path(rows), note)


def _cost(report: Mapping, part: Mapping) -> Table:
    even = [part.get(key) or {} for key in ("break_even", "break_even_kv_cache")]
    # What is made once of a document: an adapter of every path, or keys and values.
    made = {**(part.get("adapters") or {}), "kv_cache": part.get("kv_cache")}
    makings = tuple(
        (
            name,
            in_unit(cost["seconds"], SECONDS),
            in_unit(cost["bytes"], BYTES),
            in_unit(cost["peak_bytes"], BYTES),
            *("" if name == "kv_cache" else _questions(rows, name) for rows in even),
        )
        for name, cost in made.items()
        if cost
    )
    first, whole = (part.get(key) or {} for key in ("first_token", "questions"))
    answers, tokens = (
        tuple((label(name) + after, in_unit(s, SECONDS), *[""] * 4) for name, s in seconds.items())
        for seconds, after in ((whole, ""), (first, ": first token"))
    )
    headings = ("made or answered", "time", "size", "peak memory", "pays after", "beside kv_cache")
    note = (
        "Time to make a document's adapter, or to keep the keys and values of its passage and of "
        "the prompt before it, which is that of all documents (kv_cache); "
        "to answer a question in a batch; to the first token of a question alone. Pays after: "
        "questions a document until faster answers than in_context's have paid for the adapter; "
        "beside kv_cache: than those from kept keys and values. Peak memory: of the whole process "
        "while it is made, with the base model and all that is loaded."
    )
    if published := part.get("published"):
        note += f" Published, not measured here: {published['text']} ({published['source']})."
    return Table("Cost", headings, tuple(filter(None, (makings, answers, tokens))), note)


def _questions(break_even: Mapping, path: str) -> str:
    """Format questions a document; `never` only where both sides were measured."""
    if path not in break_even:
        return MISSING
    return f"{break_even[path]:,.1f}" if known(break_even[path]) else "never"


def _disagreements(report: Mapping, part: Sequence[Mapping]) -> Table:
    # One column a path, behind what is the same for all of them.
    paths, rows = report["paths"], []
    for case in part:
        # Marked with a sign, not with a colour alone.
        marks = [RIGHT if case["contained"].get(path) else WRONG for path in paths]
        texts = [case["answers"].get(path) or "(nothing)" for path in paths]
        answers = (f"{mark} {text}" for mark, text in zip(marks, texts, strict=True))
        # Sets name the same golden answer once for each annotator.
        golden = " / ".join(dict.fromkeys(case["golden_answers"]))
        rows.append((case["question"], case["document"], golden, *answers))
    headings = ("question", "document", "golden answer", *paths)
    note = f"{RIGHT} contains a golden answer, {WRONG} does not."
    return Table("Where the paths disagree", headings, (tuple(rows),), note)


def _by_path(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Put rows of one path, which stands before the first comma, into one section."""
    return tuple(tuple(group) for _, group in groupby(rows, lambda row: row[0].partition(",")[0]))


def in_unit(value: float | None, units: Sequence[tuple[float, float, str]]) -> str:
    """Format seconds or bytes with three digits, in the unit that keeps the number short."""
    if not known(value):
        return MISSING
    _, size, unit = next(entry for entry in units if value < entry[0])
    number = value / size
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def terminal_lines(report: Mapping) -> Iterator[RenderableType]:
    """Yield what `rich` prints of a comparison: its tables, then its notes."""
    for key, table in comparison_tables(report).items():
        if key != "disagreements":  # too long and wide: the page has it
            yield ""
            yield _narrow(table).rich()
    for note in report.get("notes") or ():
        # Text, not a string: rich would read square brackets of a foreign name as markup.
        yield Text(f"Note: {note}")


def _narrow(table: Table) -> Table:
    """Leave intervals out where a terminal of 80 columns has no room for them; the page has it."""
    if len(table.headings) <= INTERVAL_COLUMNS:
        return table
    sections = tuple(
        tuple(tuple(cell.partition(" (")[0] for cell in row) for row in section)
        for section in table.sections
    )
    return replace(table, sections=sections)
