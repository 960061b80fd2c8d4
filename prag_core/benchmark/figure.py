"""Figure of a benchmark: table.json goes in, one SVG picture comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from prag_core.benchmark.table import TOTAL
from prag_core.evaluation.report.figures import draw_bars
from prag_core.evaluation.report.style import styled
from prag_core.evaluation.report.wording import label, ordered_modes

COLUMNS, PANEL_WIDTH = 2, 4.6  # inches


def write_figure(table: Mapping, path: Path) -> None:
    """Draw answer containment of every mode, one panel a base model and question set.

    The picture has a white ground and its text stays text; the same table gives the same bytes.

    Args:
        table: table.json of `prag benchmark`.
        path: .svg file to write.
    """
    panels: dict[tuple[str, str], dict[str, Mapping]] = {}
    for row in table["rows"]:
        if row["sub_task"] == TOTAL:
            name = f"{row['path']}/{row['mode']}" if row["path"] else row["mode"]
            panels.setdefault((row["base_model"], row["question_set"]), {})[name] = row
    if not panels:
        return
    with styled():
        _draw(panels).savefig(
            path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None}
        )


def _draw(panels: Mapping[tuple[str, str], Mapping[str, Mapping]]) -> Figure:
    lines = -(-len(panels) // COLUMNS)
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(COLUMNS * PANEL_WIDTH, lines * (0.8 + 0.25 * most)))
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for place, ((base_model, question_set), rows) in zip(axes, panels.items(), strict=False):
        names = ordered_modes(rows)
        found = [rows[name]["metrics"]["containment"] for name in names]
        draw_bars(place, names, found, [label(name) for name in names], 100)
        place.set_title(f"{question_set}, {base_model}")
        place.set_xlabel("answer contained, %")
    for place in axes[len(panels) :]:
        place.remove()
    return figure
