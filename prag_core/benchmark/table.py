"""Table of a benchmark: groups with scored answers go in, rows of means and intervals come out.

A row is one mode on one sub-task. Its mean is over all answers, those of all seeds pooled (with
equally many questions a seed: the mean over the seeds). Its interval is a bootstrap over questions:
a question's answers in all seeds are drawn together, since they are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from prag_core.benchmark.options import SHARED, Group
from prag_core.benchmark.published import load_published, published_f1
from prag_core.corpus.answer_scores import METRICS
from prag_core.evaluation.estimates import BLOCK, SMALLEST_SAMPLE
from prag_core.evaluation.results import EVALUATED_MODES, Estimate, answers_path, read_answers

TOTAL, BASELINE, RESAMPLES = "total", "in_context", 2000
Values = Mapping[tuple[int, str], np.ndarray]  # (seed, question id) -> (metrics,) scores


@dataclass(frozen=True)
class Row:
    """One mode on one sub-task.

    Attributes:
        base_model: its name in the table.
        question_set: its name in the table.
        sub_task: `total`, or a type of question.
        mode: way to answer.
        path: who made the adapters; empty for modes without.
        retrieval: `gold` or `retriever`.
        k: documents a question, at most.
        questions: different questions.
        answers: answers of all seeds.
        seeds: seeds that are finished.
        metrics: metric -> Estimate.
        by_seed: seed -> metric -> mean.
        minus_in_context: metric -> Estimate of the difference over the same answers.
        published: F1 of the same cell in the paper.
        note: what is missing, and why.
    """

    base_model: str
    question_set: str
    sub_task: str
    mode: str
    path: str
    retrieval: str
    k: int
    questions: int
    answers: int
    seeds: int
    metrics: Mapping[str, Estimate]
    by_seed: Mapping[str, Mapping[str, float]]
    minus_in_context: Mapping[str, Estimate]
    published: float | None
    note: str


def build_table(
    groups: Iterable[tuple[Group, Sequence[Mapping]]], failures: Mapping[str, str]
) -> dict:
    """Return all rows, with the published numbers' source, as table.json has them.

    Args:
        groups: each with its questions {id, type, total}; none where it was never begun.
        failures: cell -> what went wrong.
    """
    tables: dict[tuple[str, str], list[tuple[Group, Sequence[Mapping]]]] = {}
    for group, questions in groups:
        tables.setdefault((group.model.label, group.spec.label), []).append((group, questions))
    published = load_published()
    rows = [row for members in tables.values() for row in _rows(members, published)]
    return {
        "published": {name: published[name] for name in ("source", "metric", "note")},
        "rows": [asdict(row) for row in rows],
        "failed": dict(failures),
    }


def _rows(members: Sequence[tuple[Group, Sequence[Mapping]]], published: Mapping) -> list[Row]:
    """Return the rows of one base model on one question set, sub-task by sub-task."""
    found: dict[tuple[str, str], Values] = {}
    kinds: dict[tuple[str, str], dict[tuple[int, str], tuple[str, bool]]] = {}
    for group, questions in members:
        for mode in group.modes:
            cell = (mode, group.path)
            found.setdefault(cell, {})
            kinds.setdefault(cell, {})
            found[cell] |= _values(group, mode, questions)
            kinds[cell] |= {(group.seed, q["id"]): (q["type"], q["total"]) for q in questions}
    sub_tasks = sorted({kind for rows in kinds.values() for kind, _ in rows.values() if kind})
    order = sorted(found, key=lambda cell: EVALUATED_MODES.index(cell[0]))
    baseline, seeds = found.get((BASELINE, SHARED), {}), len({g.seed for g, _ in members})
    rows = []
    for sub_task in (*sub_tasks, TOTAL):
        for cell in order:
            values = {
                key: scores
                for key, scores in found[cell].items()
                if (kinds[cell][key][1] if sub_task == TOTAL else kinds[cell][key][0] == sub_task)
            }
            if values:
                group = next(g for g, _ in members if g.path == cell[1])
                rows.append(_row(group, sub_task, cell[0], values, baseline, seeds, published))
    return rows


def _values(group: Group, mode: str, questions: Sequence[Mapping]) -> Values:
    """Return the scores of a finished cell; none of one that is not."""
    answers = read_answers(answers_path(group.folder, mode))
    if any(question["id"] not in answers for question in questions):
        return {}
    return {
        (group.seed, q["id"]): np.array([answers[q["id"]]["scores"][m] for m in METRICS])
        for q in questions
    }


def _row(
    group: Group,
    sub_task: str,
    mode: str,
    values: Values,
    baseline: Values,
    seeds: int,
    published: Mapping,
) -> Row:
    path = "" if group.path == SHARED else group.path
    done = sorted({seed for seed, _ in values})
    questions = len({identifier for _, identifier in values})
    paired = {key: values[key] - baseline[key] for key in values if key in baseline}
    comparable = mode != BASELINE and len(paired) == len(values)
    return Row(
        base_model=group.model.label,
        question_set=group.spec.label,
        sub_task=sub_task,
        mode=mode,
        path=path,
        retrieval=group.spec.retrieval,
        k=group.spec.k,
        questions=questions,
        answers=len(values),
        seeds=len(done),
        metrics=_estimates(values),
        by_seed={str(seed): _means(values, seed) for seed in done},
        minus_in_context=_estimates(paired) if comparable else {},
        published=published_f1(published, group, sub_task, mode),
        note=_note(questions, len(done), seeds),
    )


def _note(questions: int, done: int, seeds: int) -> str:
    few = f"below {SMALLEST_SAMPLE} questions an interval means nothing"
    partly = f"{done} of {seeds} seeds finished"
    return "; ".join([few] * (questions < SMALLEST_SAMPLE) + [partly] * (done < seeds))


def _means(values: Values, seed: int) -> dict[str, float]:
    own = np.mean([scores for (number, _), scores in values.items() if number == seed], 0)
    return dict(zip(METRICS, own.tolist(), strict=True))


def _estimates(values: Values) -> dict[str, Estimate]:
    """Return mean and interval of every metric; questions are what is drawn."""
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(identifier, len(places)) for _, identifier in values])
    sums, counts = np.zeros((len(places), len(METRICS))), np.bincount(rows)
    np.add.at(sums, rows, np.stack([*values.values()]))  # (questions, metrics)
    means = sums.sum(0) / counts.sum()
    if len(places) < SMALLEST_SAMPLE:
        return {m: Estimate(float(mean)) for m, mean in zip(METRICS, means, strict=True)}
    draws = _draws(len(places))
    resampled = (draws @ sums) / (draws @ counts)[:, None]  # (resamples, metrics)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    columns = zip(METRICS, means.tolist(), low.tolist(), high.tolist(), strict=True)
    return {m: Estimate(*numbers) for m, *numbers in columns}


@lru_cache(maxsize=8)
def _draws(count: int) -> np.ndarray:
    """Return how often each question is drawn, (resamples, count), as `bootstrap_interval` does."""
    generator, rows, drawn = np.random.default_rng(0), max(1, BLOCK // count), []
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        chosen = generator.integers(count, size=(size, count))
        chosen += np.arange(size)[:, None] * count
        drawn.append(np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count))
    return np.concatenate(drawn).astype(np.float32)
