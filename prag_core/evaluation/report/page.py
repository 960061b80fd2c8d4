"""Page: a comparison's report goes in, one HTML file that needs nothing beside it comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from prag_core.evaluation.report.figures import TITLES, figures
from prag_core.evaluation.report.style import svg
from prag_core.evaluation.report.tables import ReportTable, Row, comparison_tables
from prag_core.evaluation.report.verdict import headline, key_numbers, verdict
from prag_core.evaluation.report.wording import MISSING, Cell, counted, known, percent

SHOWN_DISAGREEMENTS, SHOWN_DOCUMENTS = 50, 200
SECTIONS = (  # key, title, lead, tables, figures
    (
        "quality",
        "Quality",
        "How many questions each way of answering gets right, all asked the same questions.",
        ("quality", "differences"),
        ("quality",),
    ),
    (
        "controls",
        "Controls",
        "Another document's adapter, the mean of all adapters and one adapter for the whole corpus "
        "know how to answer but not this document: what they score is answer format.",
        ("controls",),
        ("controls",),
    ),
    (
        "knowledge",
        "Knowledge",
        "How well the model predicts each document's text, and golden answers, with no adapter, "
        "with the document's own and with another's.",
        ("knowledge",),
        ("knowledge",),
    ),
    (
        "similarity",
        "Likeness of adapters",
        "How alike the adapters of different documents are, and those of one document made on "
        "different paths. Each map shows one path by itself; only nearness means something.",
        ("similarity",),
        ("norms", "map"),
    ),
    (
        "side_effects",
        "Side effects",
        "What an adapter does to text and questions that have nothing to do with its document.",
        ("side_effects",),
        (),
    ),
    (
        "merging",
        "Merging",
        "Every question's gold document among others, half of them near neighbours.",
        ("merging",),
        ("merging",),
    ),
    (
        "cost",
        "Cost",
        "What an adapter costs to make and to keep, and a question to answer.",
        ("cost",),
        ("cost",),
    ),
)


@dataclass(frozen=True)
class _Drawn:
    """A figure as markup, with what it shows."""

    svg: Markup
    title: str


def write_report_page(report: dict, path: Path | str) -> None:
    """Write the report as one HTML file: no script, no network, nothing beside it.

    Args:
        report: report.json of `prag compare`; parts may be missing.
        path: of the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # A lone surrogate, which a broken source may hold, is no character that a file can keep.
    temporary.write_text(render_report(report), encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def render_report(report: dict) -> str:
    """Return the page of `write_report_page`; what is foreign in it is escaped."""
    folder = files("prag_core") / "resources" / "report"
    sources = {"report.html": (folder / "report.html").read_text("utf-8")}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["typeset"] = _typeset
    return environment.get_template("report.html").render(
        report={"machine": "", "command": "", "base_model": "", "notes": ()} | report,
        css=Markup((folder / "report.css").read_text("utf-8")),
        headline=headline(report),
        verdict=verdict(report),
        numbers=key_numbers(report),
        date=str(report.get("created") or "")[:10],
        sections=_sections(report),
    )


def _typeset(text: str) -> str:
    """Write a hyphen before a number as a minus, and keep a number and its unit on one line."""
    for plain, better in ((" -", " −"), ("(-", "(−"), (" %", "\N{NO-BREAK SPACE}%")):
        text = text.replace(plain, better)
    return f"−{text[1:]}" if text.startswith("-") else text


def _sections(report: dict) -> list[dict]:
    """Return the parts that the report holds, each with its tables and figures."""
    tables = comparison_tables(report)
    drawn = {
        name: _Drawn(Markup(svg(figure, name, TITLES[name])), TITLES[name])
        for name, figure in figures(report).items()
    }
    sections = []
    for key, title, lead, table_keys, figure_keys in SECTIONS:
        own = [tables[name] for name in table_keys if name in tables]
        pictures = [drawn[name] for name in figure_keys if name in drawn]
        if own or pictures:
            found = {"key": key, "title": title, "lead": lead, "tables": own, "figures": pictures}
            sections.append(found)
    return sections + _disagreements(report) + _documents(report)


def _shown(count: int, limit: int, noun: str) -> str:
    """Say how many there are, and that not all are shown where that is so."""
    if count <= limit:
        return counted(count, noun)
    return f"the first {limit} of {count:,} {noun}s; report.json has all"


def _disagreements(report: dict) -> list[dict]:
    rows = report.get("disagreements")
    if not rows:
        return []
    return [
        {
            "key": "disagreements",
            "title": "Where the paths disagree",
            "lead": "Questions that one path's adapters answer right and another's do not.",
            "tables": [],
            "figures": [],
            "rows": rows[:SHOWN_DISAGREEMENTS],
            "shown": _shown(len(rows), SHOWN_DISAGREEMENTS, "question"),
        }
    ]


def _documents(report: dict) -> list[dict]:
    documents = report.get("documents")
    if not documents:
        return []
    shown = _shown(len(documents), SHOWN_DOCUMENTS, "document")
    return [
        {
            "key": "documents",
            "title": "Documents",
            "lead": "",
            "tables": [],
            "figures": [],
            "shown": f"{shown[0].upper()}{shown[1:]}",
            "table": _document_table(report),
        }
    ]


def _document_table(report: dict) -> ReportTable:
    """Return one row a document: its questions, containment by mode, loss of its text."""
    asked = {row["id"]: row for row in (report.get("quality") or {}).get("per_document") or ()}
    losses = {row["id"]: row for row in (report.get("knowledge") or {}).get("per_document") or ()}
    own = [f"{path}/parametric" for path in report["paths"]]
    modes = ["closed_book", "in_context", *own] if asked else []
    texts = ["none", *(f"{path}/own" for path in report["paths"])] if losses else []
    rows = []
    for document in report["documents"][:SHOWN_DOCUMENTS]:
        scores, loss = (found.get(document["id"]) or {} for found in (asked, losses))
        cells = [Cell(f"{document.get('words') or 0:,}")]
        if asked:
            cells.append(Cell(str(scores.get("questions", 0))))
        contained, text = scores.get("containment") or {}, loss.get("text") or {}
        cells += [Cell(percent(contained.get(mode), 0)) for mode in modes]
        cells += [Cell(f"{text[t]:.2f}" if known(text.get(t)) else MISSING) for t in texts]
        title = document.get("title") or document["id"]
        rows.append(Row(title, tuple(cells), document.get("topic") or ""))
    columns = ["words", *(["questions"] if asked else [])]
    columns += [mode.removesuffix("/parametric") for mode in modes]
    columns += ["text, no adapter", *(f"text, {p}" for p in report["paths"])] if losses else []
    caption = "; ".join(
        ["modes: answer containment (paths: adapter only)"] * bool(asked)
        + ["text: nats a token, with the path's own adapter"] * bool(losses)
    )
    return ReportTable("documents", "Documents", "document", tuple(columns), tuple(rows), caption)
