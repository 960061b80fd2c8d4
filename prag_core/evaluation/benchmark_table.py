"""Tables of a benchmark: a results file's content goes in, tables come out.

`results_tables` has everything, a table a question set; `grid_table` has F1 and containment of all
sets side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prag_core.evaluation.benchmark_results import SCORED, TOTAL
from prag_core.evaluation.conditions import in_order
from prag_core.evaluation.estimates import Estimate, format_estimate
from prag_core.evaluation.report.tables import BYTES, SECONDS, in_unit
from prag_core.evaluation.tables import Table, result_table

PAPER = "F1 in the paper"


def results_tables(results: Mapping, sets: Sequence[str] = (), narrow: bool = False) -> list[Table]:
    """Return one table a question set: conditions by sub-task, differences, ratios.

    Args:
        results: of one base model, see `benchmark_results`.
        sets: names of the question sets; all when empty.
        narrow: without counts and costs, for a terminal.

    Raises:
        ValueError: a set without results.
    """
    names = [*dict.fromkeys(cell["set"] for cell in results["cells"])]
    if unknown := [name for name in sets if name not in names]:
        raise ValueError(f"got set {unknown[0]!r}, expected one of {', '.join(names)}: correct it")
    return [_set_table(results, name, narrow) for name in sets or names]


def _set_table(results: Mapping, name: str, narrow: bool) -> Table:
    cells = {_cell_name(cell): cell for cell in _in_order(results["cells"], name)}
    first = next(iter(cells.values()))
    source = "gold documents" if first["retrieval"] == "gold" else "retrieved documents"
    given = [cell["k"] for cell in cells.values() if "+" not in cell["condition"]]
    most = max(given, default=first["k"])
    further = {
        "questions": [f"{cell['questions']:,}" for cell in cells.values()],
        "documents": [f"{cell['documents']:,}" for cell in cells.values()],
        "a document": [_or_empty(cell["bytes"], BYTES) for cell in cells.values()],
        "a question": [in_unit(cell["seconds"], SECONDS) for cell in cells.values()],
    }
    published = {PAPER: [_paper(cell["published"]) for cell in cells.values()]}
    further = published if narrow else further | published
    return result_table(
        f"{name}, {results['base_model']} ({source}, k = {most})",
        {row: _estimates(cell) for row, cell in cells.items()},
        _named(results["differences"], name, "difference"),
        _named(results["ratios"], name, "ratio"),
        further={heading: texts for heading, texts in further.items() if any(texts)},
        note=results["notes"].get(name, ""),
    )


def _in_order(cells: Sequence[Mapping], name: str) -> list[Mapping]:
    """Return a set's cells, sub-tasks first, in the order of all tables."""
    own = [cell for cell in cells if cell["set"] == name]
    return sorted(
        own, key=lambda c: (c["sub_task"] == TOTAL, c["sub_task"], in_order(c["condition"]))
    )


def _cell_name(cell: Mapping) -> str:
    kind = "" if cell["sub_task"] == TOTAL else f"{cell['sub_task']}: "
    return kind + _with_path(cell["condition"], cell["path"])


def _with_path(name: str, path: str) -> str:
    return f"{name} ({path})" if path else name


def _estimates(row: Mapping) -> dict[str, Estimate | None]:
    """Return the metrics of a row, as they stand in the file."""
    fields = {metric: row[metric] for metric in SCORED}
    return {
        metric: Estimate(**value) if isinstance(value, Mapping) else value and Estimate(*value)
        for metric, value in fields.items()
    }


def _named(rows: Sequence[Mapping], name: str, kind: str) -> dict[str, dict]:
    own = [row for row in rows if row["set"] == name]
    return {_with_path(row[kind], row["path"]): _estimates(row) for row in own}


def _or_empty(value: float | None, units: Sequence) -> str:
    return "" if value is None else in_unit(value, units)


def _paper(value: float | None) -> str:
    return "" if value is None else f"published {100 * value:.1f}"


def grid_table(results: Mapping) -> Table:
    """Return one row a condition and one column a question set: F1, then containment."""
    totals = [cell for cell in results["cells"] if cell["sub_task"] == TOTAL]
    sets, notes = list(dict.fromkeys(cell["set"] for cell in totals)), results["notes"]
    texts: dict[str, dict[str, str]] = {}
    for cell in sorted(totals, key=lambda c: (in_order(c["condition"]), c["path"])):
        estimates = _estimates(cell)
        shown = f"{format_estimate(estimates['f1'])}, {100 * cell['containment'][0]:.1f}"
        texts.setdefault(_cell_name(cell), {})[cell["set"]] = shown
    rows = tuple((name, *(row.get(each, "") for each in sets)) for name, row in texts.items())
    signs = {name: "*" * number for number, name in enumerate(notes, 1)}
    note = (
        "F1 with its 95 % interval (bootstrap over documents), then containment, in %. The "
        "smallest difference in F1 that a pair of conditions could show (80 % power, 5 % level): "
        + ", ".join(
            f"{name} {_points(size['f1'])}" for name, size in results["detectable"].items()
            if "f1" in size
        )
        + " points."
    )  # fmt: skip
    note += "".join(f" {signs[name]} {text}" for name, text in notes.items())
    headings = ("condition", *(name + signs.get(name, "").replace("*", "\\*") for name in sets))
    return Table(f"F1, {results['base_model']}", headings, (rows,), note.replace("*", "\\*"))


def _points(ends: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{100 * end:.1f}" for end in ends))


def results_markdown(results: Mapping) -> str:
    """Return all tables as Markdown."""
    parts = [table.markdown() for table in results_tables(results)]
    if any(cell["published"] is not None for cell in results["cells"]):
        source = results["published"]
        parts.append(f"Published: {source['source']}. {source['metric']}")
    # A table with holes says so itself: it is copied without the terminal's text.
    if results["failed"]:
        parts.append("\n".join(f"- failed: {k}: {v}" for k, v in results["failed"].items()))
    return "\n\n".join(parts) + "\n"
