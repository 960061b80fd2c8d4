"""Table of a benchmark: groups with scored answers go in, rows and tables come out.

A row is one condition on one sub-task. Its mean is over all answers, those of all seeds pooled; its
interval is a bootstrap over documents, whose answers in all seeds are drawn together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from itertools import groupby
from operator import itemgetter

import pandas as pd

from prag_core.corpus.answer_scores import METRICS
from prag_core.evaluation.benchmark import kept_questions
from prag_core.evaluation.benchmark_options import SHARED, Group, last_part
from prag_core.evaluation.conditions import in_order
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, Bootstrap, format_estimate
from prag_core.evaluation.results import answers_path, read_answers
from prag_core.evaluation.tables import SHOWN, Table

TOTAL, BASELINE = "total", "in_context"
PLACE = ["base_model", "question_set"]
HEADINGS = ("condition", "n", *SHOWN.values(), "F1 in the paper", "- in_context", "note")
EXPLAINED = (
    "In %, with 95 % intervals: bootstrap over documents, all answers about one, whatever the "
    "seed, drawn together. n: answers of all seeds (different questions). `- in_context`: F1 minus "
    "that of in_context on the same questions. `shuffled`: another document's adapter."
)


def build_table(groups: Sequence[Group], failures: Mapping[str, str]) -> dict:
    """Return all rows, with the published numbers' source, as table.json has them.

    Args:
        groups: with the answers in their folders.
        failures: cell -> what went wrong.
    """
    published = json.loads(
        (files("prag_core") / "resources" / "published.json").read_text(encoding="utf-8")
    )
    # All answers in one frame, a row an answer; its groups are the cells.
    answers, rows = [frame for group in groups for frame in _frames(group)], []
    seeds = len({group.seed for group in groups})
    for _, cells in pd.concat(answers).groupby(PLACE, sort=False) if answers else ():
        for kind in (*sorted({*cells["type"]} - {""}), TOTAL):
            part = cells[cells["total"] if kind == TOTAL else cells["type"] == kind]
            baseline = part[part["condition"] == BASELINE]
            # In the order of all tables, not in that of the alphabet.
            pairs = sorted(part.groupby(["condition", "path"]), key=lambda c: in_order(c[0][0]))
            rows += [_row(cell, baseline, kind, seeds, published) for _, cell in pairs]
    named = {name: published[name] for name in ("source", "metric", "note")}
    return {"published": named, "rows": rows, "failed": dict(failures)}


def _frames(group: Group) -> Iterator[pd.DataFrame]:
    """Yield one table of scored answers a finished cell, a row an answer."""
    # The questions beside the answers: their data need not be there any more.
    questions = pd.DataFrame(kept_questions(group))
    for condition in group.conditions:
        answers = read_answers(answers_path(group.folder, condition))
        if len(questions) and {*questions["id"]} <= answers.keys():
            # In the order of the questions, so that rows join by place.
            scores = pd.DataFrame([answers[i]["scores"] for i in questions["id"]])
            yield questions.join(scores).assign(
                base_model=group.model.label,
                question_set=group.spec.label,
                path="" if group.path == SHARED else group.path,
                condition=condition,
                seed=group.seed,
                group=group,
            )


def _row(
    cell: pd.DataFrame, baseline: pd.DataFrame, kind: str, seeds: int, published: Mapping
) -> dict:
    """Return the row of one condition and path, of one base model, question set and sub-task."""
    first, finished, notes = cell.iloc[0], cell["seed"].nunique(), []
    spec = first["group"].spec
    if cell["document"].nunique() < SMALLEST_SAMPLE:
        notes.append(f"below {SMALLEST_SAMPLE} documents an interval means nothing")
    if finished < seeds:
        notes.append(f"{finished} of {seeds} seeds finished")
    return {
        **{name: first[name] for name in PLACE},
        "sub_task": kind,
        "condition": first["condition"],
        "path": first["path"],
        "retrieval": spec.retrieval,
        "k": spec.k,
        "questions": cell["id"].nunique(),
        "answers": len(cell),
        "seeds": finished,
        **_estimates(cell, baseline),
        "published": published_f1(published, first["group"], kind, first["condition"]),
        "note": "; ".join(notes),
    }


def _estimates(cell: pd.DataFrame, baseline: pd.DataFrame) -> dict:
    """Return mean and interval of every metric, and of its difference to reading."""
    bootstrap = Bootstrap([*cell["document"]])
    by_seed = cell.groupby("seed")[[*METRICS]].mean().to_dict("index")
    pairs = cell.merge(baseline, on=["seed", "id"], suffixes=("", "_read"))
    # Paired with all of its own questions, or not at all.
    comparable = len(pairs) == len(cell) and cell["condition"].iloc[0] != BASELINE
    differences = {
        m: asdict(bootstrap.difference(pairs[m], pairs[f"{m}_read"]))
        for m in (METRICS if comparable else ())
    }
    return {
        "metrics": {m: asdict(bootstrap.mean(cell[m])) for m in METRICS},
        "by_seed": {str(seed): row for seed, row in by_seed.items()},
        "minus_in_context": differences,
    }


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
    if group.path not in (SHARED, "trained") or setting != published["setting"]:
        return None
    # Names are spelled in many ways; letters' case is the only one forgiven.
    place = (spec.label.casefold(), group.model.label.casefold(), kind, condition)
    keys = ("question_set", "base_model", "sub_task", "mode")
    cells = {tuple(str(c[key]).casefold() for key in keys): c["f1"] for c in published["cells"]}
    return cells.get(place)


def format_tables(table: Mapping) -> list[Table]:
    """Return one table a base model and question set, a section a sub-task, no empty columns."""
    tables = []
    for (base_model, question_set), members in groupby(table["rows"], itemgetter(*PLACE)):
        rows = list(members)
        texts = [_texts(row) for row in rows]
        # A column that no row fills is left out: published numbers are few.
        columns = [i for i in range(len(HEADINGS)) if any(text[i] for text in texts)]
        by_kind = groupby(zip(rows, texts, strict=True), lambda pair: pair[0]["sub_task"])
        sections = tuple(
            tuple(tuple(text[i] for i in columns) for _, text in pairs) for _, pairs in by_kind
        )
        source = "gold documents" if rows[0]["retrieval"] == "gold" else "BM25"
        title = f"{question_set}, {base_model} ({source}, k = {rows[0]['k']})"
        tables.append(Table(title, tuple(HEADINGS[i] for i in columns), sections))
    return tables


def _texts(row: Mapping) -> list[str]:
    """Return the texts of one row."""
    kind = "" if row["sub_task"] == TOTAL else f"{row['sub_task']}: "
    path = f" ({row['path']})" if row["path"] else ""
    # Only with several seeds do answers and questions differ in number.
    difference, published = row["minus_in_context"].get("f1"), row["published"]
    return [
        f"{kind}{row['condition']}{path}",
        f"{row['answers']}" + (f" ({row['questions']})" if row["seeds"] > 1 else ""),
        *(format_estimate(row["metrics"][name]) for name in SHOWN),
        "" if published is None else f"published {100 * published:.1f}",
        format_estimate(difference, sign="+") if difference else "",
        row["note"],
    ]


def format_markdown(table: Mapping) -> str:
    """Return the whole table as Markdown, ready for a README."""
    # The explanation once, below all tables.
    parts = [one.markdown() for one in format_tables(table)] + [EXPLAINED]
    if any(row["published"] is not None for row in table["rows"]):
        parts.append(f"Published: {table['published']['source']}. {table['published']['metric']}")
    # A table with holes says so itself: it is copied without the terminal's text.
    if table["failed"]:
        parts.append("\n".join(f"- failed: {k}: {v}" for k, v in table["failed"].items()))
    return "\n\n".join(parts) + "\n"
