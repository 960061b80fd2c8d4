"""Rendering: Markdown files go in, their tables come out as the results files have them.

A table stands between `<!-- table: KIND FILE [NAMES] -->` and `<!-- end -->`; FILE is relative to
the Markdown file, NAMES are of what is shown, all when empty. KIND is one of

results        all of a benchmark's results.json: conditions, differences, ratios; NAMES are of
               question sets
grid           F1 and containment of every condition on every question set of a results.json;
               NAMES are of conditions
variants       the same the other way round, and the seconds that an adapter took to make
ratios         ratios of conditions on every question set of a results.json
differences    paired differences in F1, with p, on every question set of a results.json
conditions     results.json of `prag evaluate`; NAMES are of conditions
compare        report.json of `prag compare`; NAMES are of tables
demo           of `prag demo`
speed          of `prag speed`; NAMES are of parts
tables         ablation.json of `hypernet ablate`
curve          curve.json of `hypernet fit`

A figure beside every checkpoint's results.json shows F1 of its conditions: results.svg.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prag_core.evaluation.benchmark_results import (
    TOTAL,
    difference_table,
    grid_table,
    ratio_table,
    results_tables,
    variant_table,
)
from prag_core.evaluation.conditions import in_order
from prag_core.evaluation.estimates import format_estimate
from prag_core.evaluation.report.figures import draw_bars, figure_text, new_figure, styled
from prag_core.evaluation.report.tables import comparison_tables
from prag_core.evaluation.tables import SHOWN, Table

FILES = (
    "README.md",
    "*/README.md",
    "*/*/README.md",
    "checkpoints/*/card.md",
    "checkpoints/*/results.md",
)
RESULTS = "checkpoints/*/results.json"
BLOCK = re.compile(r"(<!-- table: (\w+) (\S+)((?: [^\s>]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
Rows = list[list[str]]
Tables = Callable[[Mapping, Sequence[str]], list[Table]]  # of a record, and the names of its sets


def render_documents(root: Path, write: bool = True) -> list[Path]:
    """Render the tables of all Markdown files and the figures; returns those that differed.

    Args:
        root: folder of the repository.
        write: write what differs.

    Raises:
        ValueError: a table of an unknown kind, or of results that are not there.
    """
    rendered = {
        path: render(path.read_text("utf-8"), path)
        for path in sorted(p for pattern in FILES for p in root.glob(pattern))
    }
    rendered |= {p.with_suffix(".svg"): results_figure(p) for p in sorted(root.glob(RESULTS))}
    changed = [
        path
        for path, text in rendered.items()
        if not path.exists() or signature(path.read_text("utf-8")) != signature(text)
    ]
    for path in changed if write else ():
        path.write_text(rendered[path], encoding="utf-8")
    return changed


def signature(text: str) -> str:
    """Return what two renderings must share: the text, or of a figure the hash of its results.

    Another version of the library that draws writes the same figure in other words.
    """
    match = re.search(r"<!-- results [0-9a-f]+ -->", text)
    return match[0] if match else text


def render(text: str, path: Path) -> str:
    """Return a Markdown text with its tables as the results files have them now.

    Args:
        text: of the file.
        path: of the file.
    """

    def block(match: re.Match[str]) -> str:
        opening, kind, name, names, end = match.groups()
        if kind not in KINDS or not (path.parent / name).is_file():
            raise ValueError(
                f"got a table {kind} of {name} in {path}, expected one of {', '.join(KINDS)} and "
                "a results file: correct the comment above the table, or run the command that "
                "writes the file"
            )
        record = json.loads((path.parent / name).read_text("utf-8"))
        tables = (table.markdown() for table in KINDS[kind](record, names.split()))
        return "\n\n".join([opening + next(tables), *tables]) + f"\n{end}"

    return BLOCK.sub(block, text)


def _plain(rows: Callable[[Mapping], Rows]) -> Tables:
    """Return what makes a table without a title of rows, the first of them headings."""

    def tables(record: Mapping, names: Sequence[str]) -> list[Table]:
        head, *body = rows(record)
        body = [row for row in body if not names or row[0] in names]
        return [Table("", tuple(head), (tuple(map(tuple, body)),))]

    return tables


def _conditions(record: Mapping) -> Rows:
    """Return a row a condition, then ratios and what unrelated adapters change, by source."""
    rows = [["condition", *SHOWN.values()]]
    rows += [[n, *_cells(cell["metrics"])] for n, cell in record["conditions"].items()]
    rows += [[name, *_cells(ratio)] for name, ratio in record["ratios"].items()]
    for path, measured in (record.get("unrelated") or {}).items():
        source = re.sub(r"[^:]*/", "", path)  # not where it lies
        name, change, unit = f"right of {source}", measured.get("difference"), "points"
        if "ratio" in measured:  # of losses: 1 is no change
            ends = {end: measured["ratio"].get(end) for end in ("mean", "low", "high")}
            change = {end: value - 1 for end, value in ends.items() if value is not None}
            name, unit = f"loss of unrelated text, {source}", "%"
        rows.append([name, f"{format_estimate(change, sign='+')} {unit}", "", ""])
    return rows


def _compared(record: Mapping, names: Sequence[str]) -> list[Table]:
    """Return the tables of a comparison of paths."""
    tables = comparison_tables(record)
    if unknown := {*names} - {*tables}:
        raise ValueError(f"got tables {unknown}, expected some of {[*tables]}: correct them")
    return [table for name, table in tables.items() if not names or name in names]


def _demo(record: Mapping) -> Rows:
    """Return a row a mode; those that attach adapters once a path."""
    rows = [["mode", "F1", "containment"]]
    for path, part in record["paths"].items():
        for name, cell in part["report"]["conditions"].items():
            made_by = f", {path}" if name in ("parametric", "combine", "shuffled") else ""
            rows.append([name + made_by, *_cells(cell["metrics"])[:2]])
    return rows


def _speed(record: Mapping, names: Sequence[str]) -> list[Table]:
    """Return a row a measurement of all parts, or of those named; with notes without baselines."""
    measured = [row for part in names or record for row in record[part]["rows"]]
    if any(row["ratio"] is not None for row in measured):
        head = "what", "ours", "baseline", "ratio"
        ratios = ["" if row["ratio"] is None else f"{row['ratio']:.3g}x" for row in measured]
        sides = [(_value(row, "ours"), _value(row, "baseline")) for row in measured]
        rows = [(m["name"], *s, r) for m, s, r in zip(measured, sides, ratios, strict=True)]
    else:
        head = "what", "measured", "note"
        rows = [(row["name"], _value(row, "ours"), row["note"]) for row in measured]
    return [Table("", head, (tuple(rows),))]


def _value(row: Mapping, side: str) -> str:
    return "" if row[side] is None else f"{row[side]:.3g} {row['unit']}"


def _curve(record: Sequence[Mapping]) -> Rows:
    """Return a row a validation of a training."""
    rows = [["step", "documents seen", "hours", "own", "another's", "none"]]
    for point in record:
        losses = (f"{point[name]:.2f}" for name in rows[0][3:])
        hours = f"{point['seconds'] / 3600:.2f}"
        rows.append([str(point["step"]), f"{point['documents']:,}", hours, *losses])
    return rows


def _cells(metrics: Mapping) -> list[str]:
    return [format_estimate(metrics.get(name)) for name in SHOWN]


KINDS: dict[str, Tables] = {
    "results": results_tables,
    "grid": lambda record, names: [grid_table(record, names)],
    "variants": lambda record, names: [variant_table(record, names)],
    "ratios": lambda record, names: [ratio_table(record)],
    "differences": lambda record, names: [difference_table(record)],
    # As the program that measured them wrote them down (`hypernet ablate`).
    "tables": lambda record, names: [Table(**table) for table in record["tables"]],
    "conditions": _plain(_conditions),
    "compare": _compared,
    "demo": _plain(_demo),
    "speed": _speed,
    "curve": _plain(_curve),
}


def results_figure(path: Path) -> str:
    """Return the figure of a results file as SVG: F1 of every condition, a panel a question set."""
    content = path.read_bytes()
    totals = [c for c in json.loads(content)["cells"] if c["sub_task"] == TOTAL]
    sets: dict[str, dict[str, dict]] = {}
    for cell in sorted(totals, key=lambda c: (c["path"], in_order(c["condition"]))):
        name = f"{cell['path']}/{cell['condition']}" if cell["path"] else cell["condition"]
        ends = dict(zip(("mean", "low", "high"), cell["f1"], strict=True))
        sets.setdefault(cell["set"], {})[name] = ends
    counts = [len(bars) for bars in sets.values()]
    with styled():
        heights = {"gridspec_kw": {"height_ratios": counts}}
        height = 0.5 * len(sets) + 0.22 * sum(counts)
        figure, grid = new_figure(height, nrows=len(sets), squeeze=False, sharex=True, **heights)
        for axes, (name, bars) in zip(grid.flat, sets.items(), strict=True):
            draw_bars(axes, bars)
            axes.set_title("\n".join(textwrap.wrap(name, 48)))
        grid.flat[-1].set_xlabel("F1 (%); hatched: controls", loc="right")
        text = figure_text(figure)
    return marked(text, content)


def marked(figure: str, results: bytes) -> str:
    """Return an SVG file with the hash of the results file that it shows (see `signature`)."""
    mark = f"<!-- results {hashlib.sha256(results).hexdigest()} -->\n"
    return re.sub(r"(?=<svg)", mark, figure, count=1)
