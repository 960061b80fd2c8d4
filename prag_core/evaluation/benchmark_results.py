"""Results of a benchmark: groups with scored answers go in, results files and tables come out.

    answers of shared conditions, of each path -> summarise -> cells, differences, ratios -> tables

A cell is one condition on one question set (or sub-task of it). Its mean is over all answers, those
of all seeds pooled; what is resampled is documents, with the answers about each in all seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from prag_core.corpus.questions import Question
from prag_core.evaluation.benchmark import kept_questions, read_run
from prag_core.evaluation.benchmark_options import UNADAPTED, BenchmarkModel, Group, last_part
from prag_core.evaluation.conditions import in_order, parse_condition
from prag_core.evaluation.estimates import (
    RESAMPLES,
    SIGNS,
    Estimate,
    correct,
    format_estimate,
)
from prag_core.evaluation.evaluate import MAKING
from prag_core.evaluation.report.tables import BYTES, SECONDS, in_unit
from prag_core.evaluation.results import (
    RESULTS_NAME,
    Answers,
    Report,
    answers_path,
    read_answers,
    summarise,
)
from prag_core.evaluation.tables import BELIEF, RECITED, Table, format_p, of_kind, result_table
from prag_core.files import whole_lines, write_json
from prag_core.model.checkpoints import local_place

VERSION = 1  # of the file
TOTAL = "total"  # the name of what is no sub-task
WEIGHTS = "model.safetensors"
DIGITS = 6
SCORED = ("f1", "exact_match", "containment")
FURTHER = (*BELIEF, *RECITED)  # of sets of some kinds


def write_results(groups: Sequence[Group], failures: Mapping[str, str], folder: Path) -> list[Path]:
    """Write what all answers have shown, one file a base model; returns the files.

    Args:
        groups: with the answers in their folders.
        failures: cell -> what went wrong.
        folder: of the benchmark.
    """
    paths = []
    for model, members in groupby(groups, key=lambda group: group.model):
        own, place = list(members), folder / model.label
        names = [group.cell(condition) for group in own for condition in group.conditions]
        failed = {name: failures[name] for name in names if name in failures}
        path = Path(model.results) if model.results else place / RESULTS_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _header(own, place) | collect_results(own) | {"failed": failed})
        paths.append(path)
    return paths


def _header(groups: Sequence[Group], folder: Path) -> dict:
    """Return what the cells belong to: weights, code, machine, seeds, and notes on the sets."""
    model, seeds = groups[0].model, list(dict.fromkeys(group.seed for group in groups))
    return {
        "version": VERSION,
        "base_model": model.label,
        "hypernet": last_part(model.hypernet),
        "weights_sha256": weights_sha256(model),
        **read_run(folder),
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "notes": {group.spec.label: group.spec.note for group in groups if group.spec.note},
    }


def weights_sha256(model: BenchmarkModel) -> str | None:
    """Return the hash of the hypernetwork's weights; None where its files are not here."""
    path = local_place(model.hypernet) / WEIGHTS
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def collect_results(groups: Sequence[Group]) -> dict:
    """Return cells, paired differences, ratios, and the smallest differences that could show.

    Args:
        groups: of one base model.
    """
    source = files("prag_core") / "resources" / "published.json"
    published = json.loads(source.read_text(encoding="utf-8"))
    cells: list[dict] = []
    differences: dict[tuple[str, str, str], Mapping[str, Estimate]] = {}  # set, path, name
    ratios: list[dict] = []
    for name, members in groupby(groups, key=lambda group: group.spec.label):
        by_path: dict[str, list[Group]] = {}
        for group in members:  # seed by seed
            by_path.setdefault(group.path, []).append(group)
        shared = _Answers([group for path in UNADAPTED for group in by_path.pop(path, [])], "")
        parts = [shared, *(_Answers(part, path) for path, part in by_path.items())]
        for part in (each for each in parts if each.questions):  # not of sets that failed
            cells += part.cells(published)
            report, place = part.report(beside=shared), (name, part.path)
            differences |= {(*place, pair): row for pair, row in report.differences.items()}
            ratios += [
                {"set": name, "path": part.path, "ratio": pair, **_ends(row)}
                for pair, row in report.ratios.items()
            ]
    # Corrected for all that are tested in the file.
    rows = [
        dict(zip(("set", "path", "difference"), key, strict=True))
        | {m: {n: _rounded(v) for n, v in asdict(row[m]).items()} for m in _measured(row)}
        for key, row in correct(differences).items()
    ]
    sets = dict.fromkeys(row["set"] for row in rows)
    return {
        "cells": cells,
        "differences": rows,
        "detectable": {name: _smallest([r for r in rows if r["set"] == name]) for name in sets},
        "ratios": ratios,
        "published": {name: published[name] for name in ("source", "metric", "note")},
    }


@dataclass(frozen=True)
class _Answers:
    """The answers of one path to one question set, all seeds pooled; path "": the shared ones.

    A question is named SEED/ID: another seed asks others, or the same in another way.
    """

    groups: Sequence[Group]
    path: str

    @cached_property
    def questions(self) -> list[Question]:
        """What is kept of the questions, as far as they were drawn."""
        drawn = {f"{g.seed}/{q['id']}": q for g in self.groups for q in kept_questions(g)}
        return [
            Question(name, "", tuple(q.get("golden_answers", ())), tuple(q["documents"]),
                     q.get("metadata", {}) | q)
            for name, q in drawn.items()
        ]  # fmt: skip

    @cached_property
    def answers(self) -> dict[str, Answers]:
        """Condition -> SEED/ID -> record."""
        conditions = dict.fromkeys(name for group in self.groups for name in group.conditions)
        return {
            condition: {
                f"{group.seed}/{key}": record
                for group in self.groups
                for key, record in read_answers(answers_path(group.folder, condition)).items()
            }
            for condition in conditions
        }

    def report(self, beside: _Answers) -> Report:
        """Return differences and ratios over these questions, of the conditions `beside`, too."""
        whole = [q for q in self.questions if _counts_for(TOTAL, q)]
        return summarise(self.path, whole, beside.answers | self.answers, 0)

    def cells(self, published: Mapping) -> Iterator[dict]:
        """Yield finished cells: of sub-tasks that the set is drawn by, then of the whole."""
        drawn = self.groups[0].spec.per_type
        kinds = sorted({q.metadata["type"] for q in self.questions} - {""}) if drawn else []
        for kind in (*kinds, TOTAL):
            wanted = [q for q in self.questions if _counts_for(kind, q)]
            report = summarise(self.path, wanted, self.answers, 0)
            for condition, cell in report.conditions.items():
                records = [self.answers[condition][q.id] for q in wanted]
                first = self.groups[0]
                yield {
                    "set": first.spec.label,
                    "sub_task": kind,
                    "condition": condition,
                    "path": self.path,
                    "retrieval": first.spec.retrieval,
                    "k": _documents_each(condition, first.spec.k),
                    "prompt": ", ".join(sorted({record["prompt"] for record in records})),
                    "questions": cell.n,
                    "documents": report.documents,
                    **_ends(cell.metrics),
                    "bytes": _kept_bytes(records),
                    "seconds": round(cell.seconds / cell.n, DIGITS),
                    "making_seconds": _making_seconds(self.groups),
                    "published": published_f1(published, first, kind, condition),
                }


def _counts_for(kind: str, question: Question) -> bool:
    """Return whether a question is of a sub-task, or counts for the total."""
    kept = question.metadata
    return bool(kept["total"]) if kind == TOTAL else kept["type"] == kind


def _documents_each(name: str, k: int) -> int:
    """Return how many documents a question has at most; 0 where it has none."""
    condition = parse_condition(name)
    if condition.documents == "all" or not condition.how.needs_documents:
        return 0
    return condition.neighbours + (condition.k or k)


def _kept_bytes(records: Sequence[Mapping]) -> int | None:
    """Return the mean bytes of what is kept of a document; None where nothing is."""
    sizes = {d["id"]: d.get("bytes") for record in records for d in record["documents"]}
    known = [size for size in sizes.values() if size is not None]
    return round(sum(known) / len(known)) if known else None


def _making_seconds(groups: Sequence[Group]) -> float | None:
    """Return the seconds in which an adapter was made, on average; None where none was."""
    files = [path for group in groups if (path := group.folder / MAKING).exists()]
    rows = [json.loads(line) for path in files for line in whole_lines(path)]
    made = sum(row["documents"] for row in rows)
    return round(sum(row["seconds"] for row in rows) / made, DIGITS) if made else None


def _ends(metrics: Mapping[str, Estimate | None]) -> dict[str, list[float | None] | None]:
    """Return [mean, low, high] of every metric."""
    ends: dict[str, list[float | None] | None] = {}
    for name in _measured(metrics):
        one = metrics[name]
        ends[name] = one and [_rounded(v) for v in (one.mean, one.low, one.high)]
    return ends


def _measured(row: Mapping) -> list[str]:
    """Return which metrics a row has."""
    return [*SCORED, *(name for name in FURTHER if name in row)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _smallest(rows: Sequence[Mapping]) -> dict[str, list[float]]:
    """Return [smallest, largest] of what the pairs of one set could show, by metric."""
    sizes = {m: [r[m]["detectable"] for r in rows if r[m]["detectable"]] for m in SCORED}
    return {metric: [min(each), max(each)] for metric, each in sizes.items() if each}


def published_f1(published: Mapping, group: Group, kind: str, condition: str) -> float | None:
    """Return the published F1 of the same cell, or None.

    The same are question set and base model (by name), corpus, number of questions, sub-task,
    condition, retrieval and k; and conditions with adapters must have trained ones.
    """
    spec = group.spec
    front = spec.first or spec.per_type
    setting = {
        "retrieval": spec.retrieval,
        "k": spec.k,
        "corpus": last_part(spec.corpus),
        "questions": min(front, group.limit or front),
    }
    # The paper has no generated adapters.
    if group.path not in (*UNADAPTED, "trained") or setting != published["setting"]:
        return None
    # Names are spelled in many ways; letters' case is the only one forgiven.
    place = (spec.label.casefold(), group.model.label.casefold(), kind, condition)
    keys = ("question_set", "base_model", "sub_task", "mode")
    cells = {tuple(str(c[key]).casefold() for key in keys): c["f1"] for c in published["cells"]}
    return cells.get(place)


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
        "groups": [f"{cell['documents']:,}" for cell in cells.values()],
        "a document": [
            "" if (size := cell["bytes"]) is None else in_unit(size, BYTES)
            for cell in cells.values()
        ],
        "to make it": [
            in_unit(size, SECONDS) if (size := cell.get("making_seconds")) and cell["bytes"] else ""
            for cell in cells.values()
        ],
        "a question": [in_unit(cell["seconds"], SECONDS) for cell in cells.values()],
    }
    values = [cell["published"] for cell in cells.values()]
    published = {PAPER: ["" if v is None else f"published {100 * v:.1f}" for v in values]}
    further = published if narrow else further | published
    shown = of_kind(first)
    tested = _tested(results, next(iter(shown)))
    return result_table(
        f"{name}, {results['base_model']} ({source}, k = {most})",
        {row: _estimates(cell) for row, cell in cells.items()},
        _named(results["differences"], name, "difference"),
        {} if shown is RECITED else _named(results["ratios"], name, "ratio"),
        shown,
        further={heading: texts for heading, texts in further.items() if any(texts)},
        note=results["notes"].get(name, ""),
        tested=f"{tested} of the file",
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
    fields = {metric: row[metric] for metric in _measured(row)}
    return {
        metric: Estimate(**value) if isinstance(value, Mapping) else value and Estimate(*value)
        for metric, value in fields.items()
    }


def _named(rows: Sequence[Mapping], name: str, kind: str) -> dict[str, dict]:
    own = [row for row in rows if row["set"] == name]
    return {_with_path(row[kind], row["path"]): _estimates(row) for row in own}


def grid_table(results: Mapping, conditions: Sequence[str] = ()) -> Table:
    """Return one row a condition and one column a question set: F1, then containment.

    Args:
        results: of one base model, see `benchmark_results`.
        conditions: rows to show; all when empty.

    Raises:
        ValueError: a condition without results.
    """
    totals = [cell for cell in results["cells"] if cell["sub_task"] == TOTAL]
    if unknown := {*conditions} - (known := {cell["condition"] for cell in totals}):
        raise ValueError(f"got conditions {unknown}, expected some of {known}: correct them")
    totals = [cell for cell in totals if not conditions or cell["condition"] in conditions]
    sets, notes = list(dict.fromkeys(cell["set"] for cell in totals)), results["notes"]
    in_rows = sorted(totals, key=lambda c: (in_order(c["condition"]), c["path"]))
    rows = _side_by_side(((_cell_name(cell), cell) for cell in in_rows), sets)
    signs = {name: "*" * number for number, name in enumerate(notes, 1)}
    note = (
        "F1 with its 95 % interval (bootstrap over documents), then containment, in %. The "
        "smallest difference in F1 that a pair of conditions could show (80 % power, 5 % level, "
        "before correction): "
        + ", ".join(
            f"{name} {' to '.join(dict.fromkeys(f'{100 * end:.1f}' for end in size['f1']))}"
            for name, size in results["detectable"].items() if "f1" in size
        )
        + " points."
    )  # fmt: skip
    note += "".join(f" {signs[name]} {text}" for name, text in notes.items())
    headings = ("condition", *(name + signs.get(name, "").replace("*", "\\*") for name in sets))
    return Table(f"F1, {results['base_model']}", headings, (rows,), note.replace("*", "\\*"))


def ratio_table(results: Mapping) -> Table:
    """Return one row a ratio and one column a question set: of F1, then of containment."""
    sets = list(dict.fromkeys(cell["set"] for cell in results["cells"]))
    named = ((_with_path(row["ratio"], row["path"]), row) for row in results["ratios"])
    rows = _side_by_side(named, sets)
    note = "Of F1 with its 95 % interval (bootstrap over documents), then of containment, in %."
    return Table(f"Ratios, {results['base_model']}", ("ratio", *sets), (rows,), note)


def difference_table(results: Mapping) -> Table:
    """Return one row a paired difference and one column a question set: in F1, and its p."""
    sets = list(dict.fromkeys(row["set"] for row in results["differences"]))
    texts: dict[str, dict[str, str]] = {}
    for row in results["differences"]:
        f1 = Estimate(**row["f1"])
        text = f"{format_estimate(f1, sign='+')}, {format_p(f1.adjusted_p)}"
        texts.setdefault(_with_path(row["difference"], row["path"]), {})[row["set"]] = text
    rows = tuple((name, *(row.get(each, "") for each in sets)) for name, row in texts.items())
    note = (
        "F1 in points with its 95 % interval (bootstrap over documents), paired by question, then "
        f"p: that there is none, from {SIGNS * RESAMPLES:,} random signs of documents, corrected "
        f"for all {_tested(results, 'f1')} of the file (Holm)."
    )
    return Table(f"Differences, {results['base_model']}", ("difference", *sets), (rows,), note)


def _tested(results: Mapping, metric: str) -> int:
    """Return how many differences of a file were tested in a metric."""
    rows = [row[metric] for row in results["differences"] if metric in row]
    return sum(row["p"] is not None for row in rows)


def variant_table(results: Mapping, conditions: Sequence[str] = ()) -> Table:
    """Return one row a set and path, one column a condition, and the seconds to make an adapter.

    For sets that vary how adapters are made. Arguments and errors are those of `grid_table`.
    """
    grid = grid_table(results, conditions)
    cells = [
        cell for cell in results["cells"]
        if cell["path"] and cell["sub_task"] == TOTAL
        and (not conditions or cell["condition"] in conditions)
    ]  # fmt: skip
    columns = sorted({cell["condition"] for cell in cells}, key=in_order)
    made = {_with_path(c["set"], c["path"]): in_unit(c["making_seconds"], SECONDS) for c in cells}
    turned = ((_with_path(c["set"], c["path"]), c | {"set": c["condition"]}) for c in cells)
    rows = tuple((*row, made[row[0]]) for row in _side_by_side(turned, columns))
    return Table(grid.title, ("variant", *columns, "an adapter"), (rows,), grid.note)


def _side_by_side(
    named: Iterable[tuple[str, Mapping]], sets: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return rows of a name and, for every set, F1 with its interval and containment."""
    texts: dict[str, dict[str, str]] = {}
    for name, row in named:
        f1, containment = (_estimates(row)[metric] for metric in ("f1", "containment"))
        share = "-" if containment is None else f"{100 * containment.mean:.1f}"
        texts.setdefault(name, {})[row["set"]] = f"{format_estimate(f1)}, {share}"
    return tuple((name, *(row.get(each, "") for each in sets)) for name, row in texts.items())


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
