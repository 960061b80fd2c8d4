"""Results: a folder of scored answers goes in, means, differences and ratios come out.

The folder holds CONDITION.jsonl (one line an answer), config.json (what the answers depend on),
making.ndjson (how long their adapters took) and results.json (the report).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from prag_core.corpus.answer_scores import METRICS, abstains
from prag_core.corpus.questions import Question
from prag_core.evaluation.belief import stances
from prag_core.evaluation.conditions import (
    MEAN,
    OF_FOCUS,
    READER,
    SHUFFLED,
    condition_of,
    file_name,
    in_order,
    is_reading,
)
from prag_core.evaluation.estimates import Bootstrap, Estimate, correct, document_groups
from prag_core.evaluation.recitation import recitations
from prag_core.files import whole_lines, write_json
from prag_core.model.base_model import BaseModel
from prag_core.model.wordings import READING, keep_choice

KEPT = "closed_book's kept by shuffled"  # a ratio: right answers that shuffled does not spoil
GOLD = ("gold+", "rank:")  # conditions of gold documents begin with it
CONFIG_NAME, RESULTS_NAME = "config.json", "results.json"
MAKING = "making.ndjson"  # a line a run: documents, and seconds in which their adapters were made
Scores = Mapping[str, np.ndarray]  # metric -> (N,) in the order of the questions
Answers = Mapping[str, dict]  # question id -> record
Records = Mapping[str, Sequence[dict]]  # condition -> records in the order of the questions


@dataclass(frozen=True)
class Cell:
    """How one condition did: number of questions, seconds spent answering, metric -> Estimate.

    Beyond the scores, `abstained` is the share of answers that say they do not know, `invented`
    that of answers which neither do nor hold a golden answer. Altered texts have `fact`, `belief`
    and `other` (see `belief`), requests for texts `recited` and others (see `recitation`).
    """

    n: int
    seconds: float
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Report:
    """Results of one question set.

    Attributes:
        question_set: its name.
        questions: asked.
        documents: groups of those that they are about, which questions share: what the bootstrap
            resamples. One document each where every question has one.
        conditions: every condition that was asked of all questions.
        differences: `A - B`, paired by question, p values corrected; metric -> Estimate.
        ratios: `A / B` of the means; metric -> Estimate, None where the divisor is 0.
        unrelated: by source, see `prag_core.evaluation.unrelated`.
    """

    question_set: str
    questions: int
    documents: int
    conditions: Mapping[str, Cell]
    differences: Mapping[str, Mapping[str, Estimate]]
    ratios: Mapping[str, Mapping[str, Estimate | None]]
    unrelated: Mapping | None = None


def claim_folder(folder: Path, config: Mapping[str, object], finished: Sequence[str] = ()) -> None:
    """Keep the config in the folder, or check it against the one of the results there.

    Where there are no results, another config also removes what making adapters took with the old,
    and a report.

    Args:
        folder: made where it is missing.
        config: all that the results depend on.
        finished: results in the folder beside answers, by name.

    Raises:
        ValueError: results made with another config, or with none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_NAME
    given = flatten(json.loads(json.dumps(config, default=str)))  # as it comes back from disk
    results = [*conditions_in(folder), *finished]
    stored = _stored_config(path)
    # Nothing here depends on a config yet: the folder is anybody's.
    if not results:
        if stored != given:  # a run stopped before its first answer: not this config's costs
            for name in (MAKING, RESULTS_NAME):
                (folder / name).unlink(missing_ok=True)
        write_json(path, config)
        return
    if not path.exists():
        raise ValueError(
            f"got {folder} with results of {', '.join(results)} but no {CONFIG_NAME}, expected "
            "a folder made by this command: choose another folder"
        )
    if stored is None:
        raise ValueError(
            f"got {path} that is no JSON, expected the config of the results beside it: choose "
            "another folder, or delete this one"
        )
    # A key that only one of them has counts as changed, too.
    changed = [key for key in sorted({*given, *stored}) if given.get(key) != stored.get(key)]
    if changed:
        pairs = "; ".join(f"{key} {given.get(key)!r}, not {stored.get(key)!r}" for key in changed)
        raise ValueError(
            f"got {pairs}: expected the config that {folder} was made with ({path}): choose "
            "another folder, or go back to that config"
        )


def _stored_config(path: Path) -> dict[str, object] | None:
    """Return a config by the paths of its values; None where there is none, or no JSON."""
    try:
        return flatten(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # the latter: JSON, or its encoding
        return None


def flatten(value: object, joint: str = ".", prefix: str = "") -> dict[str, object]:
    """Return every value of nested objects by its path, such as `generation.batch_size`."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, member in value.items():
        flat |= flatten(member, joint, f"{prefix}{joint}{key}" if prefix else str(key))
    return flat


def answers_path(folder: Path, condition: str) -> Path:
    """Return the file of one condition's answers."""
    return folder / file_name(condition)


def conditions_in(folder: Path) -> list[str]:
    """Return the conditions that a folder holds answers of."""
    # Other files may lie beside: only names of conditions count.
    names = [condition_of(path.name) for path in folder.glob("*.jsonl")]
    return sorted((name for name in names if name), key=in_order)


def read_answers(path: Path) -> dict[str, dict]:
    """Return {question id: record}; a last line cut off by an interruption is removed.

    Raises:
        ValueError: a whole line that is not an answer, named by number.
    """
    answers = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            record = json.loads(line)
            answers[record["id"]] = record
            scores, _ = record["scores"], record["seconds"]
            complete = all(name in scores for name in METRICS)
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ValueError(
                f"got {path}, line {number}, that is no scored answer, expected JSON with id, "
                "seconds and scores: delete the line, and its question is answered again"
            )
    return answers


def append_answers(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Append one line a record and see it through to the disk."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("ab") as file:
        file.write(lines.encode())
        # Acknowledged means on the disk, whatever happens to the machine.
        file.flush()
        os.fsync(file.fileno())


def summarise(
    name: str,
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    seed: int,
    unrelated: Mapping | None = None,
) -> Report:
    """Report on every condition that answered all questions.

    Args:
        name: of the question set.
        questions: asked; they pair the conditions.
        answers: condition -> question id -> record with scores and seconds.
        seed: of the bootstrap.
        unrelated: goes into the report.
    """
    # One for all conditions, so that they meet the same resamples.
    bootstrap = Bootstrap(document_groups(questions), seed)
    cells, scores, asked = {}, {}, {}
    for condition in sorted(answers, key=in_order):
        # Half a condition is no result: it is left out until it is finished.
        if not all(question.id in answers[condition] for question in questions):
            continue  # interrupted, or of an earlier run with fewer questions
        records = [answers[condition][question.id] for question in questions]
        asked[condition] = records
        scores[condition] = {m: np.array([r["scores"][m] for r in records]) for m in METRICS}
        seconds = round(sum(record["seconds"] for record in records), 3)
        silent = np.array([float(abstains(record["prediction"])) for record in records])
        invented = (1 - silent) * (1 - scores[condition]["containment"])
        # Of sets of these kinds only.
        for measure in (stances, recitations):
            scores[condition] |= measure(questions, [record["prediction"] for record in records])
        values = scores[condition] | {"abstained": silent, "invented": invented}
        metrics = {m: bootstrap.mean(column) for m, column in values.items()}
        if "longest_run" in values:  # of all texts: no mean, so no interval
            metrics["longest_run_of_all"] = Estimate(float(values["longest_run"].max()))
        cells[condition] = Cell(len(records), seconds, metrics)
    fits = partial(_same_documents, asked, [{*question.gold_ids} for question in questions])
    differences = {
        f"{a} - {b}": {m: bootstrap.difference(scores[a][m], scores[b][m]) for m in scores[a]}
        for a, b in _compared(asked, fits)
    }
    ratios = {
        name: {m: bootstrap.ratio(top[m], bottom[m]) for m in METRICS}
        for name, (top, bottom) in _divided(scores, asked, fits).items()
    }
    size = bootstrap.size
    return Report(name, len(questions), size, cells, correct(differences), ratios, unrelated)


def _own(asked: Records) -> str | None:
    """Return the condition of the documents' own adapters."""
    return next((name for name in ("parametric", "gold") if name in asked), None)


def _same_documents(asked: Records, gold: Sequence[set[str]], a: str, b: str) -> bool:
    """Return whether two conditions answer from the same documents, of every question.

    What was retrieved is not what questions are about: a difference between the two would be
    retrieval's.
    """
    of_gold = [_condition_of_gold(name) for name in (a, b)]
    if of_gold[0] == of_gold[1]:
        return True
    own = asked[a if of_gold[1] else b]
    documents = ({d["id"] for d in record.get("documents", ())} for record in own)
    return all(given <= about for given, about in zip(documents, gold, strict=True))


def _condition_of_gold(name: str) -> bool:
    """Return whether a condition answers from gold documents, whatever is retrieved."""
    return name == "gold" or name.startswith(GOLD)


def _compared(asked: Records, fits: Callable[[str, str], bool]) -> list[tuple[str, str]]:
    """Name the differences that say something: the adapter against what has none, or another."""
    adapter = _own(asked)
    # The adapter against each of these, as far as they were asked.
    reading = [*filter(is_reading, asked)]
    pairs = [(adapter, b) for b in ("closed_book", SHUFFLED, MEAN, "sft")]
    both = [(a, b) for a in (adapter, "combine") if a in asked for b in reading]
    pairs += [(a, b) for a, b in both if fits(a, b)]
    pairs += [(name, name.partition(OF_FOCUS)[0]) for name in asked if OF_FOCUS in name]
    return [(a, b) for a, b in pairs if a in asked and b in asked]


def without_adapter(answers: Mapping[str, Sequence[Mapping]]) -> str | None:
    """Return the condition that `shuffled` differs from by the adapter alone: asked as it was.

    Args:
        answers: condition -> records of the same questions.
    """
    prompts = {name: [r.get("prompt") for r in records] for name, records in answers.items()}
    plain = [name for name in prompts if re.split("[@:]", name)[0] == "closed_book"]
    return next((n for n in plain if prompts[n] == prompts.get(SHUFFLED)), None)


def _divided(
    scores: Mapping[str, Scores], asked: Records, fits: Callable[[str, str], bool]
) -> dict[str, tuple[Scores, Scores]]:
    """Return what is divided by what, by name: mostly what is kept of a better condition.

    The best reading is that of the highest F1; the reader, which was trained to read, stands beside
    it. `kept by shuffled` is what is right without an adapter, asked in the same prompt, and not
    spoilt by another document's.
    """
    pairs: dict[str, tuple[Scores, Scores]] = {}
    adapter = _own(asked)
    # The strongest reading is what adapters have to reach.
    reading = [name for name in scores if is_reading(name)]
    trained = [name for name in reading if name.startswith(READER)]
    kinds = [name for name in reading if name not in trained], trained
    best = [max(kind, key=lambda name: scores[name]["f1"].sum()) for kind in kinds if kind]
    others, plain = scores.get(SHUFFLED), without_adapter(asked)
    # What is lost with another document's adapter is knowledge; the rest is format.
    if adapter and others:
        lost = {m: scores[adapter][m] - others[m] for m in METRICS}
        pairs[f"({adapter} - {SHUFFLED}) / {adapter}"] = lost, scores[adapter]
    focused = [name for name in scores if OF_FOCUS in name]
    for name in filter(scores.__contains__, (adapter, "combine", *focused)):
        for baseline in best:
            if fits(name, baseline):
                pairs[f"{name} / {baseline}"] = scores[name], scores[baseline]
    for name in filter(lambda name: name.startswith(GOLD), scores):
        if own := next((n for n in ("gold", "parametric") if n in scores and fits(name, n)), None):
            pairs[f"{name} / {own}"] = scores[name], scores[own]
    if plain and others:
        both = {m: np.minimum(scores[plain][m], others[m]) for m in METRICS}
        pairs[KEPT] = both, scores[plain]
    return pairs


CHOOSING_QUESTIONS = 200
READING_CONDITIONS = tuple(f"in_context:prompt:{name}" for name in READING)


def choose_wording(report: Report, base: BaseModel) -> Path:
    """Keep the wording of the best F1 for all later runs with a base model; return its file."""
    scores = {
        name: {metric: value.mean for metric, value in report.conditions[c].metrics.items()}
        for name, c in zip(READING, READING_CONDITIONS, strict=True)
    }
    best = max(READING, key=lambda name: scores[name]["f1"])  # of equals, the first
    asked = {"question_set": report.question_set, "questions": report.questions}
    choice = {"base_model": base.name, "prompt": best} | asked | {"scores": scores}
    return keep_choice(base.fingerprint, choice)
