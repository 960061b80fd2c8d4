"""Cells: `evaluate` asks one question set over every path; quality and merging are read from it.

What does not depend on the path is asked once, in the folder `shared`, and stands in every path's
report beside its own conditions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from prag_core.corpus.answer_scores import METRICS
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.conditions import MEAN, SHUFFLED, EvaluationOptions, parse_condition
from prag_core.evaluation.estimates import Bootstrap, Estimate, correct, document_groups
from prag_core.evaluation.evaluate import evaluate, trains
from prag_core.evaluation.results import Answers, Report, answers_path, read_answers
from prag_core.pipeline.rag import ParametricRAG

Rags = Mapping[str, ParametricRAG]  # path -> pipeline


@dataclass(frozen=True)
class Cells:
    """Every condition asked of one question set over every path.

    Attributes:
        question_set: documents and questions.
        reports: path -> report of its own and the shared conditions.
        answers: `PATH/CONDITION`, or a shared CONDITION -> question id -> record.
    """

    question_set: QuestionSet
    reports: Mapping[str, Report] = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)

    def name(self, path: str, condition: str) -> str:
        """Return the name that a path's condition has here."""
        return f"{path}/{condition}" if parse_condition(condition).needs_adapters else condition

    def scores(self, name: str, metric: str) -> list[float]:
        """Return one value a question."""
        return [self.answers[name][q.id]["scores"][metric] for q in self.question_set.questions]


def ask(
    rags: Rags,
    configs: Mapping[str, Mapping],
    question_set: QuestionSet,
    options: EvaluationOptions,
    folder: Path,
) -> Cells:
    """Ask all conditions of all paths; resumable, what the folder holds is not asked again.

    Args:
        rags: the pipelines by path.
        configs: what each path's answers depend on.
        question_set: documents and questions.
        options: conditions, documents a question.
        folder: gets a folder for the shared conditions and one for every path.
    """
    needs = {name: parse_condition(name).needs_adapters for name in options.conditions}
    shared, by_path = ([n for n in needs if needs[n] == kind] for kind in (False, True))
    # Only a pipeline that trains has an adapter of the whole corpus and augmented passages.
    first = next((path for path in rags if trains(rags[path])), next(iter(rags)))
    reports: dict[str, Report] = {}
    answers: dict[str, Answers] = {}

    def evaluate_in(path: str, name: str, conditions: Sequence[str]) -> Report:
        # The shared answers are scored beside the path's own, so that differences are paired.
        others = {n: rows for n, rows in answers.items() if "/" not in n}
        mine, place = replace(options, conditions=tuple(conditions)), folder / name
        return evaluate(rags[path], question_set, mine, place, configs[path], predictions=others)

    if shared:
        # Stands for every path until the path's own conditions are asked, if there are any.
        reports = dict.fromkeys(rags, evaluate_in(first, "shared", shared))
        answers |= {name: read_answers(answers_path(folder / "shared", name)) for name in shared}
    for path in rags if by_path else ():
        reports[path] = evaluate_in(path, path, by_path)
        for name in by_path:
            answers[f"{path}/{name}"] = read_answers(answers_path(folder / path, name))
    return Cells(question_set, reports, answers)


def possible(
    rags: Rags, conditions: Sequence[str], documents: int, k: int
) -> tuple[tuple[str, ...], list[str]]:
    """Return the conditions that can be asked, and a note on each that is left out."""
    lacking = {}  # mode -> what is missing; better left out than refused: it is a default
    if not any(trains(rag) for rag in rags.values()):
        lacking["sft"] = "one adapter of the whole corpus needs the trained path"
    if not any(rag.augmenter for rag in rags.values()):
        lacking["da_rag"] = "augmented passages need the trained path"
    if not any(rag.reader for rag in rags.values()):
        lacking["reader"] = "no adapter that answers from passages is named (--reader)"
    asked = {name: parse_condition(name) for name in conditions}
    out = {n: lacking[c.mode] for n, c in asked.items() if c.mode in lacking and n != MEAN}
    for name, condition in asked.items():
        if condition.mode == "kv_cache" and (condition.k or k) > 1:
            out[name] = f"it reads one passage, and k is {condition.k or k}: ask kv_cache@1"
    if documents < 2:
        out[SHUFFLED] = "it needs another document"
    notes = [f"{name} is left out: {out[name]}." for name in conditions if name in out]
    return tuple(name for name in conditions if name not in out), notes


def quality(cells: Cells, seed: int) -> dict:
    """Return the `quality` part: conditions, paired differences and ratios.

    Args:
        cells: of the question set.
        seed: of the bootstrap.
    """
    part: dict[str, dict] = {"conditions": {}, "differences": {}, "ratios": {}}
    differences = _between_paths(cells, seed)
    for path, report in cells.reports.items():
        fields = asdict(report)
        for name, cell in fields["conditions"].items():
            part["conditions"][cells.name(path, name)] = cell  # shared ones are the same in all
        part["ratios"] |= {f"{path}/{name}": row for name, row in fields["ratios"].items()}
        differences |= {f"{path}/{name}": dict(row) for name, row in report.differences.items()}
    for name, metrics in correct(differences).items():  # all paths' are tested together
        part["differences"][name] = {metric: asdict(one) for metric, one in metrics.items()}
    return part


def _between_paths(cells: Cells, seed: int) -> dict[str, dict[str, Estimate]]:
    """Return the differences between the paths' adapters, paired by question."""
    bootstrap, differences = Bootstrap(document_groups(cells.question_set.questions), seed), {}
    for one, other in itertools.combinations(cells.reports, 2):
        for condition in ("parametric", "combine"):
            names = [f"{path}/{condition}" for path in (other, one)]
            if all(name in cells.answers for name in names):
                pairs = {m: [cells.scores(name, m) for name in names] for m in METRICS}
                differences[f"{condition}/{other} - {one}"] = {
                    m: bootstrap.difference(*pair) for m, pair in pairs.items()
                }
    return differences


def disagreements(cells: Cells) -> list[dict] | None:
    """Return the questions that one path's adapters answer right and another's do not.

    None where fewer than two paths were asked.
    """
    names = {p: f"{p}/parametric" for p in cells.reports if f"{p}/parametric" in cells.answers}
    if len(names) < 2:
        return None
    titles, cases = cells.question_set.documents_by_id, []
    for question in cells.question_set.questions:
        records = {path: cells.answers[name][question.id] for path, name in names.items()}
        contained = {path: record["scores"]["containment"] for path, record in records.items()}
        if len({*contained.values()}) > 1:  # right on one path and wrong on another
            ids = [document["id"] for document in next(iter(records.values()))["documents"]]
            cases.append(
                {
                    "question": question.question,
                    "golden_answers": list(question.golden_answers),
                    "document": ", ".join(titles[i].title or i for i in ids),
                    "answers": {path: record["prediction"] for path, record in records.items()},
                    "contained": contained,
                }
            )
    return cases


def merge_conditions(counts: Sequence[int], weights: Sequence[str]) -> dict[str, list[str]]:
    """Return the conditions of the part `merging`: series -> one for each number of documents.

    Of one document there is nothing to weigh: every series begins with the same condition.
    """
    others = [k - 1 for k in counts]
    # The same documents read in the prompt are what merging is held against.
    series = {"in_context": [f"in_context+{n}" if n else "in_context" for n in others]}
    for how in weights:
        series[how] = [f"gold+{n}:{how}" if n else "gold" for n in others]
    return series


def merging(cells: Cells, counts: Sequence[int], weights: Sequence[str]) -> dict:
    """Return the `merging` part: containment over k, the gold document among k - 1 others.

    Args:
        cells: of the conditions of `merge_conditions`.
        counts: values of k.
        weights: see `merge.merge_weights`.
    """
    series: dict[str, dict] = {}
    for path, report in cells.reports.items():
        for how, conditions in merge_conditions(counts, weights).items():
            name = how if how == "in_context" else f"{path}/{how}"  # shared, or the path's own
            series[name] = {
                # Keys are text: so they are in JSON.
                str(k): asdict(report.conditions[condition].metrics["containment"])
                for k, condition in zip(counts, conditions, strict=True)
            }
    questions = len(cells.question_set.questions)
    return {"k": list(counts), "n": questions, "metric": "containment", "series": series}
