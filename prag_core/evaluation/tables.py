"""Tables: records go in, one table comes out, for the terminal (rich) and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from prag_core.evaluation.conditions import is_doubtful
from prag_core.evaluation.estimates import RESAMPLES, SIGNS, Estimate, format_estimate
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
TESTED = (
    "Differences are paired by question; p: that there is none in {}, from "
    f"{SIGNS * RESAMPLES:,} random signs of "
    "documents, corrected for all {} (Holm)."
)


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Attributes:
        title: above it; none where it is empty.
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
        rows: list[tuple[str, ...]] = [self.headings, ("---",) * len(self.headings)]
        rows += [row for section in self.sections for row in section]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        note = ["", textwrap.fill(self.note, 100)] if self.note else []
        title = [f"**{self.title}**", ""] if self.title else []
        return "\n".join([*title, *lines, *note])


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


def difference_rows(
    differences: Mapping[str, Mapping[str, Estimate]], metrics: Sequence[str] = tuple(SHOWN)
) -> tuple[tuple[str, ...], ...]:
    """Return one row a difference: its name, every metric in points, and p of the first one."""
    rows = metric_rows(differences, metrics, sign="+")
    tested = (record[metrics[0]].adjusted_p for record in differences.values())
    return tuple((*row, format_p(p)) for row, p in zip(rows, tested, strict=True))


def format_p(p: float | None) -> str:
    """Write a p value; "-" where nothing was tested."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def detectable_note(
    differences: Mapping[str, Mapping[str, Estimate]], metric: str = "f1", heading: str = "F1"
) -> str:
    """Say how small a difference these could show; empty where none was tested."""
    each = [metrics[metric].detectable for metrics in differences.values() if metric in metrics]
    sizes = sorted({f"{100 * size:.1f}" for size in each if size is not None}, key=float)
    if not sizes:
        return ""
    return (
        f"The smallest difference in {heading} that it could show (80 % power, 5 % level, "
        f"before correction) is {' to '.join(dict.fromkeys((sizes[0], sizes[-1])))} points, by "
        "pair."
    )


def report_table(report: Report) -> Table:
    """Return the table of an evaluation: conditions, then differences, then ratios."""
    shown = SHOWN | (DOUBT if any(map(is_doubtful, report.conditions)) else {})
    shown = of_kind(
        {metric for cell in report.conditions.values() for metric in cell.metrics}, shown
    )
    size = f"{report.questions} questions in {report.documents} groups by document"
    table = result_table(
        f"{report.question_set}: {size}",
        {name: cell.metrics for name, cell in report.conditions.items()},
        report.differences,
        {} if shown is RECITED else report.ratios,  # shares of texts are not divided
        shown,
    )
    sources = (report.unrelated or {}).items()
    note = "".join(_unrelated(source, measured) for source, measured in sources)
    return replace(table, note=table.note + note)


def of_kind(measured: Collection[str], shown: Mapping[str, str] = SHOWN) -> Mapping[str, str]:
    """Return what is shown of a set's answers, metric -> heading: sets of some kinds have more."""
    if {*RECITED} <= {*measured}:
        return RECITED
    return shown | BELIEF if {*BELIEF} <= {*measured} else shown


def result_table(
    title: str,
    conditions: Mapping[str, Mapping[str, Estimate]],
    differences: Mapping[str, Mapping[str, Estimate]],
    ratios: Mapping[str, Mapping[str, Estimate | None]],
    shown: Mapping[str, str] = SHOWN,
    further: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    tested: str = "that stand together",
) -> Table:
    """Return one table of all that a question set has shown.

    Args:
        title: above it.
        conditions: name -> metric -> estimate.
        differences: paired ones, with p.
        ratios: of means.
        shown: metric -> heading.
        further: heading -> one text a condition, in columns behind the metrics.
        note: what must be known beside the rows.
        tested: which differences p is corrected for.
    """
    metrics, further = tuple(shown), further or {}
    p = ("p",) if differences else ()
    gap = ("",) * len(p)  # of rows that are not tested
    cells = metric_rows(conditions, metrics)
    texts = zip(*further.values(), strict=True) if further else ((),) * len(cells)
    empty = ("",) * len(further)
    sections = (
        tuple((*row, *gap, *more) for row, more in zip(cells, texts, strict=True)),
        tuple((*row, *empty) for row in difference_rows(differences, metrics)),
        tuple((*row, *gap, *empty) for row in metric_rows(ratios, metrics)),
    )
    first = metrics[0], shown[metrics[0]]  # what is tested
    tests = TESTED.format(first[1], tested), detectable_note(differences, *first)
    notes = (note, EXPLAINED, *(tests if differences else ()))
    # Without controls there is nothing to compare or divide by.
    sections = tuple(rows for rows in sections if rows)
    headings = ("condition", *shown.values(), *p, *further)
    return Table(title, headings, sections, " ".join(filter(None, notes)))


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
