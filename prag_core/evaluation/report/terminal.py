"""Report: a comparison's report.json goes in, what a terminal of 80 columns shows comes out."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prag_core.evaluation.report.tables import ReportTable, comparison_tables
from prag_core.evaluation.report.verdict import headline, verdict
from prag_core.evaluation.report.wording import Cell

INTERVAL_COLUMNS = 5  # with more columns than this, 80 are too few for intervals


def format_comparison(report: dict) -> list[RenderableType]:
    """Return what `rich` prints: the verdict in words, then one table a part that there is.

    Args:
        report: report.json of `prag compare`; parts may be missing.
    """
    # Text, not strings: rich would read square brackets of a foreign name as markup.
    opening = Text(f"\n{report['title']}: {headline(report)}\n", style="bold")
    lines = [opening, *(Text(sentence) for sentence in verdict(report))]
    tables = [_rich(table) for table in comparison_tables(report).values()]
    notes = [Text(f"Note: {note}") for note in report.get("notes") or ()]
    return [*lines, *tables, *notes]


def _rich(table: ReportTable) -> Table:
    made = Table(
        title=Text(f"\n{table.title}"), caption=Text(table.caption), box=box.SIMPLE_HEAD, padding=0
    )
    made.add_column(Text(table.head), min_width=14)  # longer names break at their spaces
    for name in table.columns:
        made.add_column(Text(name), justify="right")
    detailed = len(table.columns) <= INTERVAL_COLUMNS
    for row in table.rows:
        if row.starts_group:
            made.add_section()
        made.add_row(Text(row.head), *(_cell(cell, detailed) for cell in row.cells))
    return made


def _cell(cell: Cell, detailed: bool) -> Text:
    """Return a value over its interval, narrow enough for 80 columns."""
    first = f"{cell.text} {cell.p.replace(' ', '')}".strip()
    detail = cell.detail.replace(" to ", "..") if detailed else ""
    return Text("\n".join(filter(None, (first, detail))), no_wrap=True)
