"""Tables: records go in, one table comes out, for the terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from prag_core.evaluation.conditions import is_doubtful
from prag_core.evaluation.estimates import Estimate, format_estimate
from prag_core.evaluation.results import Report

SHOWN = {"f1": "F1", "containment": "containment", "exact_match": "exact match"}
DOUBT = {"abstained": "abstained", "invented": "invented"}  # shown where a condition asks for it
BELIEF = {"fact": "fact", "belief": "belief", "other": "other"}  # of altered texts
RECITED = {  # of requests for texts, in place of the answers' scores
    "recited": "recited", "recited_by_title": "by title", "longest_run": "longest run (words)",
    "longest_run_of_all": "of all",
}  # fmt: skip
FACTORS = {"longest_run": 1, "longest_run_of_all": 1}  # what is no share
EXPLAINED = "In %, with 95 % intervals (bootstrap over documents)."


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Attributes:
        title: above it.
        headings: of the columns.
        sections: rows that belong together; a line parts them.
        note: below it.
    """

    title: str
    headings: tuple[str, ...]
    sections: tuple[tuple[tuple[str, ...], ...], ...]
    note: str = ""

    def rich(self) -> RichTable:
        """Return it for the terminal; the first column is on the left, the others on the right."""
        table = RichTable(
            title=Text(self.title), title_justify="left", caption=Text(self.note) or None,
            caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for number, heading in enumerate(self.headings):
            table.add_column(Text(heading), justify="right" if number else "left")
        for rows in self.sections:
            for name, *texts in rows:  # intervals below, so that 80 columns suffice
                # Text, not strings: rich reads square brackets of a foreign name as markup.
                table.add_row(Text(name), *(Text(t.replace(" (", "\n(")) for t in texts))
            table.add_section()
        return table

    def markdown(self) -> str:
        """Return it as Markdown."""
        # Markdown knows no sections: their rows follow one another.
        rows = [self.headings, ("---",) * len(self.headings)]
        rows += [row for section in self.sections for row in section]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])])


def metric_rows(
    records: Mapping[str, Mapping[str, Estimate | None]],
    metrics: Sequence[str] = tuple(SHOWN),
    sign: str = "",
) -> tuple[tuple[str, ...], ...]:
    """Return one row a record: its name, then every metric in %."""
    return tuple(
        (name, *(format_estimate(record.get(m), FACTORS.get(m, 100), sign=sign) for m in metrics))
        for name, record in records.items()
    )


def report_table(report: Report) -> Table:
    """Return the table of an evaluation: conditions, then differences, then ratios."""
    shown = SHOWN | (DOUBT if any(map(is_doubtful, report.conditions)) else {})
    measured = {metric for cell in report.conditions.values() for metric in cell.metrics}
    shown = RECITED if measured >= {*RECITED} else shown | (BELIEF if "fact" in measured else {})
    sections = (
        metric_rows({name: cell.metrics for name, cell in report.conditions.items()}, tuple(shown)),
        metric_rows(report.differences, tuple(shown), sign="+"),
        metric_rows(report.ratios, tuple(shown)),
    )
    size = f"{report.questions} questions about {report.documents} documents"
    note = EXPLAINED + "".join(
        _unrelated(source, measured) for source, measured in (report.unrelated or {}).items()
    )
    headings = ("condition", *shown.values())
    # Without controls there is nothing to compare or divide by; shares of texts are not divided.
    sections = tuple(rows for rows in sections[: 2 if shown is RECITED else None] if rows)
    return Table(f"{report.question_set}: {size}", headings, sections, note)


def _unrelated(source: str, measured: Mapping) -> str:
    """Say what unrelated adapters change of a source."""
    if "ratio" in measured:
        licence = f" ({measured['licence']})" if "licence" in measured else ""
        return (
            f" Unrelated text of {source}{licence}: {measured['plain']:.3f} nats a token, with an "
            f"adapter times {format_estimate(measured['ratio'], 1, 4)}."
        )
    plain, adapted, difference = (measured[n] for n in ("plain", "adapted", "difference"))
    return (
        f" {source}, right of {measured['questions']} (chance {100 * measured['chance']:.0f}): "
        f"{format_estimate(plain)}, with an unrelated adapter {format_estimate(adapted)}, "
        f"difference {format_estimate(difference, sign='+')}."
    )
