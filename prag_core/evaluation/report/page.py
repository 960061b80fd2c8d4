"""Page: a comparison's report goes in, one HTML file that needs nothing beside it comes out.

What stands where, and the sentences around tables and figures, are in the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from prag_core.evaluation.report.figures import TITLES, figures, svg
from prag_core.evaluation.report.tables import comparison_tables
from prag_core.evaluation.tables import Table
from prag_core.files import write_whole

MOST_ROWS = 50  # disagreements; report.json has all


def write_report_page(report: Mapping, path: Path | str) -> None:
    """Write the report as one HTML file: no script, no network, nothing beside it.

    Args:
        report: report.json of `prag compare`; parts may be missing.
        path: of the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a broken source may hold, is no character that a file can keep.
    write_whole(path, render_report(report).encode("utf-8", "replace"))


def render_report(report: Mapping) -> str:
    """Return the page of `write_report_page`; what is foreign in it is escaped."""
    folder = files("prag_core") / "resources" / "report"
    sources = {"report.html": (folder / "report.html").read_text("utf-8")}
    # StrictUndefined: a name that the template has wrong is an error, not an empty space.
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["typeset"] = _typeset
    tables = comparison_tables(report)
    if "disagreements" in tables:
        tables["disagreements"] = _first_rows(tables["disagreements"], MOST_ROWS)
    return environment.get_template("report.html").render(
        report={"machine": "", "command": "", "base_model": "", "created": "", "notes": ()}
        | report,
        # Markup is what is ours, and not escaped.
        css=Markup((folder / "report.css").read_text("utf-8")),
        tables=tables,
        figures={key: Markup(svg(f, key, TITLES[key])) for key, f in figures(report).items()},
        figure_titles=TITLES,
    )


def _first_rows(table: Table, count: int) -> Table:
    """Return a table of one section, cut and saying so where it is longer."""
    (rows,) = table.sections
    if len(rows) <= count:
        return table
    note = f"{table.note} The first {count} of {len(rows):,}; report.json has all."
    return replace(table, sections=(rows[:count],), note=note)


def _typeset(text: str) -> str:
    """Write a hyphen before a number as a minus, and keep a number and its unit on one line."""
    for plain, better in ((" -", " −"), ("(-", "(−"), (" %", "\N{NO-BREAK SPACE}%")):
        text = text.replace(plain, better)
    return f"−{text[1:]}" if text.startswith("-") and len(text) > 1 else text
