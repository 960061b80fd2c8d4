"""Table of a benchmark: groups with scored answers go in, rows, tables and a picture come out.

A row is one condition on one sub-task. Its mean is over all answers, those of all seeds pooled; its
interval is a bootstrap over documents, whose answers in all seeds are drawn together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

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
COLUMNS, PANEL_WIDTH = 2, 4.6  # of the picture; inches


def build_table(groups: Sequence[Group], failures: Mapping[str, str]) -> dict:
    """Return all rows, with the published numbers' source, as table.json has them.

    Args:
        groups: with the answers in their folders.
        failures: cell -> what went wrong.
    """
    published = json.loads(
        (files("prag_core") / "resources" / "published.json").read_text(encoding="utf-8")
    )
    # One table of all answers, from which every row is cut.
    answers = [frame for group in groups for frame in _frames(group)]
    rows: list[dict] = []
    for _, cells in pd.concat(answers).groupby(PLACE, sort=False) if answers else ():
        kinds = sorted({*cells["type"]} - {""})  # sub-tasks first, the total last
        for kind in (*kinds, TOTAL):
            part = cells[cells["total"] if kind == TOTAL else cells["type"] == kind]
            rows += _rows(part, kind, groups, published)
    named = {name: published[name] for name in ("source", "metric", "note")}
    return {"published": named, "rows": rows, "failed": dict(failures)}


def _frames(group: Group) -> Iterator[pd.DataFrame]:
    """Yield one table of scored answers a finished cell, a row an answer."""
    questions = kept_questions(group)
    for condition in group.conditions:
        answers = read_answers(answers_path(group.folder, condition))
        # A cell that is partly answered says something else than a finished one.
        if questions and all(question["id"] in answers for question in questions):
            scores = [answers[question["id"]]["scores"] for question in questions]
            frame = pd.DataFrame(questions).join(pd.DataFrame(scores))
            yield frame.assign(
                base_model=group.model.label,
                question_set=group.spec.label,
                path="" if group.path == SHARED else group.path,
                condition=condition,
                seed=group.seed,
            )


def _rows(
    part: pd.DataFrame, kind: str, groups: Sequence[Group], published: Mapping
) -> Iterator[dict]:
    """Yield one row a condition and path, of one base model, question set and sub-task."""
    baseline = part[part["condition"] == BASELINE]
    cells = sorted(part.groupby(["condition", "path"]), key=lambda c: (in_order(c[0][0]), c[0][1]))
    for (condition, path), cell in cells:
        # Cells of all seeds stand in one row: settings are those of any.
        group = next(
            g
            for g in groups
            if [g.model.label, g.spec.label] == [*cell[PLACE].iloc[0]]
            and g.path == (path or SHARED)
        )
        asked = [g for g in groups if g.model == group.model and g.spec == group.spec]
        seeds, count = len({g.seed for g in asked}), cell["id"].nunique()
        yield {
            **{name: cell[name].iloc[0] for name in PLACE},
            "sub_task": kind,
            "condition": condition,
            "path": path,
            "retrieval": group.spec.retrieval,
            "k": group.spec.k,
            "questions": count,
            "answers": len(cell),
            "seeds": cell["seed"].nunique(),
            **_estimates(cell, baseline),
            "published": published_f1(published, group, kind, condition),
            "note": _note(cell, seeds),
        }


def _estimates(cell: pd.DataFrame, baseline: pd.DataFrame) -> dict:
    """Return mean and interval of every metric, and of its difference to reading."""
    bootstrap = Bootstrap([*cell["document"]])
    # Where paths have limits, reading answered more questions: those of this cell count.
    pairs = cell.merge(baseline, on=["seed", "id"], suffixes=("", "_read"))
    comparable = len(pairs) == len(cell) and cell["condition"].iloc[0] != BASELINE
    by_seed = cell.groupby("seed")[[*METRICS]].mean()
    return {
        "metrics": {m: asdict(bootstrap.mean(cell[m])) for m in METRICS},
        "by_seed": {str(seed): row for seed, row in by_seed.to_dict("index").items()},
        "minus_in_context": {
            m: asdict(bootstrap.difference(pairs[m], pairs[f"{m}_read"])) for m in METRICS
        }
        if comparable
        else {},
    }


def _note(cell: pd.DataFrame, seeds: int) -> str:
    few = f"below {SMALLEST_SAMPLE} documents an interval means nothing"
    done = cell["seed"].nunique()
    partly = f"{done} of {seeds} seeds finished"
    small = cell["document"].nunique() < SMALLEST_SAMPLE
    return "; ".join([few] * small + [partly] * (done < seeds))


def published_f1(published: Mapping, group: Group, kind: str, condition: str) -> float | None:
    """Return the published F1 of the same cell, or None.

    The same are question set and base model (by name), corpus, number of questions, sub-task,
    condition, retrieval and k; and conditions with adapters must have trained ones.
    """
    spec = group.spec
    asked = spec.first or spec.per_type  # drawn questions are never the paper's
    setting = {
        "retrieval": spec.retrieval,
        "k": spec.k,
        "corpus": last_part(spec.corpus),
        "questions": min(asked, group.limit or asked),
    }
    # The paper's adapters are trained.
    if group.path not in (SHARED, "trained") or setting != published["setting"]:
        return None
    own = (spec.label.casefold(), group.model.label.casefold(), kind, condition)
    for cell in published["cells"]:
        names = (cell["question_set"], cell["base_model"].casefold(), cell["sub_task"])
        if (*names, cell["mode"]) == own:
            return cell["f1"]
    return None


def format_tables(table: Mapping) -> list[Table]:
    """Return one table a base model and question set, a section a sub-task, no empty columns."""
    tables = []
    places = dict.fromkeys((row["base_model"], row["question_set"]) for row in table["rows"])
    for base_model, question_set in places:
        rows = [r for r in table["rows"] if [r[n] for n in PLACE] == [base_model, question_set]]
        texts = [_texts(row) for row in rows]
        # Columns that are empty here (published numbers, notes) would only take width.
        kept = [i for i in range(len(HEADINGS)) if any(text[i] for text in texts)]
        sections = {}
        for row, text in zip(rows, texts, strict=True):
            sections.setdefault(row["sub_task"], []).append(tuple(text[i] for i in kept))
        found = "gold documents" if rows[0]["retrieval"] == "gold" else "BM25"
        title = f"{question_set}, {base_model} ({found}, k = {rows[0]['k']})"
        headings = tuple(HEADINGS[i] for i in kept)
        tables.append(Table(title, headings, tuple(map(tuple, sections.values()))))
    return tables


def _texts(row: Mapping) -> list[str]:
    """Return the texts of one row."""
    kind = "" if row["sub_task"] == TOTAL else f"{row['sub_task']}: "
    path = f" ({row['path']})" if row["path"] else ""
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
    parts = [one.markdown() for one in format_tables(table)] + [EXPLAINED]
    if any(row["published"] is not None for row in table["rows"]):
        parts.append(f"Published: {table['published']['source']}. {table['published']['metric']}")
    if table["failed"]:
        parts.append(
            "\n".join(["Failed:", "", *(f"- {k}: {v}" for k, v in table["failed"].items())])
        )
    return "\n\n".join(parts) + "\n"


def write_figure(table: Mapping, path: Path) -> None:
    """Draw F1 of every condition, one panel a base model and question set.

    The picture has a white ground and its text stays text; the same table gives the same bytes.
    """
    from matplotlib.figure import Figure  # it takes a second to import

    from prag_core.evaluation.report.figures import draw_bars
    from prag_core.evaluation.report.names import reading_order
    from prag_core.evaluation.report.style import styled

    panels: dict[tuple[str, str], dict[str, Mapping]] = {}
    for row in table["rows"]:
        if row["sub_task"] == TOTAL:
            name = f"{row['path']}/{row['condition']}" if row["path"] else row["condition"]
            place = (row["question_set"], row["base_model"])
            panels.setdefault(place, {})[name] = row["metrics"]["f1"]
    if not panels:
        return
    lines, most = -(-len(panels) // COLUMNS), max(map(len, panels.values()))
    with styled():
        figure = Figure(figsize=(COLUMNS * PANEL_WIDTH, lines * (0.8 + 0.25 * most)))
        axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
        for place, (names, values) in zip(axes, panels.items(), strict=False):
            draw_bars(place, {name: values[name] for name in reading_order(values)})
            place.set_title(", ".join(names))
            place.set_xlabel("F1, %")
        for place in axes[len(panels) :]:  # an odd number leaves one empty
            place.remove()
        # Without date and creator, so that the same table gives the same bytes.
        figure.savefig(
            path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None}
        )
