"""Results: a folder of scored answers goes in, a report and its table come out.

The folder holds MODE.jsonl (one line an answer), config.json (what the answers depend on) and
results.json (the report).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from prag_core.corpus.answer_scores import METRICS
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, bootstrap_interval, paired_bootstrap
from prag_core.files import write_json

SHUFFLED = "shuffled"
EVALUATED_MODES = (
    "closed_book",
    "in_context",
    "da_rag",
    "parametric",
    "combine",
    SHUFFLED,
    "sft",
)
CONFIG_NAME, RESULTS_NAME = "config.json", "results.json"
Values = Mapping[str, np.ndarray]  # metric -> (N,) scores in the order of the questions


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval; no interval below 5 questions."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModeReport:
    """How one mode did: number of questions, seconds spent answering, metric -> Estimate."""

    n: int
    seconds: float
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Report:
    """Results of one question set.

    Attributes:
        question_set: its name.
        modes: results of every mode that the folder holds in full.
        differences: `parametric - MODE`, paired by question; metric -> Estimate.
        ratios: `specificity` = (parametric - shuffled) / parametric, and `MODE / in_context`;
            metric -> ratio of the means, None where the divisor is 0.
    """

    question_set: str
    modes: Mapping[str, ModeReport]
    differences: Mapping[str, Mapping[str, Estimate]]
    ratios: Mapping[str, Mapping[str, float | None]]


def claim_folder(folder: Path, config: Mapping[str, object], finished: Sequence[str] = ()) -> None:
    """Keep the config in the folder, or check it against the one of the results there.

    Args:
        folder: made where it is missing.
        config: all that the results depend on.
        finished: results in the folder beside answers, by name.

    Raises:
        ValueError: results made with another config, or with none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_NAME
    wanted = _flat(json.loads(json.dumps(config, default=str)))  # as it comes back from disk
    answered = [mode for mode in EVALUATED_MODES if answers_path(folder, mode).exists()]
    answered += finished
    if not answered:
        write_json(path, config)
        return
    if not path.exists():
        raise ValueError(
            f"got {folder} with results of {', '.join(answered)} but no {CONFIG_NAME}, expected "
            "a folder made by this command: choose another folder"
        )
    try:
        kept = _flat(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"got {path} that is no JSON ({error}), expected the config of the results beside it: "
            "choose another folder, or delete this one"
        ) from error
    changed = [key for key in sorted({*wanted, *kept}) if wanted.get(key) != kept.get(key)]
    if changed:
        pairs = "; ".join(f"{key} {wanted.get(key)!r}, not {kept.get(key)!r}" for key in changed)
        raise ValueError(
            f"got {pairs}: expected the config that {folder} was made with ({path}): choose "
            "another folder, or go back to that config"
        )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested objects to dotted keys, so that a difference can be named."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, member in value.items():
        flat |= _flat(member, f"{prefix}.{key}" if prefix else str(key))
    return flat


def answers_path(folder: Path, mode: str) -> Path:
    """Return the file of one mode's answers."""
    return folder / f"{mode}.jsonl"


def read_answers(path: Path) -> dict[str, dict]:
    """Return {question id: record}; a last line cut off by an interruption is removed.

    Raises:
        ValueError: a whole line that is not an answer, named by number.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    answers = {}
    for number, line in enumerate(content[:end].split(b"\n")[:-1], 1):
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
        file.flush()
        os.fsync(file.fileno())


def summarise(name: str, question_ids: Sequence[str], folder: Path, seed: int) -> Report:
    """Report on every mode that the folder holds in full.

    Args:
        name: of the question set.
        question_ids: the questions; fixes the pairing of modes.
        folder: holds MODE.jsonl.
        seed: of the bootstrap.
    """
    modes: dict[str, ModeReport] = {}
    values: dict[str, Values] = {}
    for mode in EVALUATED_MODES:
        answers = read_answers(answers_path(folder, mode))
        if not all(identifier in answers for identifier in question_ids):
            continue
        records = [answers[identifier] for identifier in question_ids]
        scores = {m: np.array([record["scores"][m] for record in records]) for m in METRICS}
        seconds = round(sum(record["seconds"] for record in records), 3)
        estimates = {m: estimate(scores[m], seed) for m in METRICS}
        modes[mode], values[mode] = ModeReport(len(records), seconds, estimates), scores
    return Report(name, modes, _differences(values, seed), _ratios(modes))


def estimate(values: np.ndarray, seed: int) -> Estimate:
    """Return the mean of one value a question, with its interval from 5 questions on."""
    if len(values) < SMALLEST_SAMPLE:
        return Estimate(float(values.mean()))
    return Estimate(float(values.mean()), *bootstrap_interval(values, seed=seed))


def _differences(values: Mapping[str, Values], seed: int) -> dict[str, dict[str, Estimate]]:
    differences = {}
    for other in ("closed_book", SHUFFLED, "sft", "in_context"):
        if "parametric" not in values or other not in values:
            continue
        pairs = {m: (values["parametric"][m], values[other][m]) for m in METRICS}
        differences[f"parametric - {other}"] = {
            m: Estimate(*paired_bootstrap(a, b, seed=seed))
            if len(a) >= SMALLEST_SAMPLE
            else Estimate(float((a - b).mean()))
            for m, (a, b) in pairs.items()
        }
    return differences


def _ratios(modes: Mapping[str, ModeReport]) -> dict[str, dict[str, float | None]]:
    def ratio(top: Mapping[str, float], bottom: Mapping[str, float]) -> dict[str, float | None]:
        return {m: top[m] / bottom[m] if bottom[m] else None for m in METRICS}

    means = {mode: {m: e.mean for m, e in r.metrics.items()} for mode, r in modes.items()}
    ratios = {}
    if "parametric" in means and SHUFFLED in means:
        own, others = means["parametric"], means[SHUFFLED]
        ratios["specificity"] = ratio({m: own[m] - others[m] for m in METRICS}, own)
    for mode in ("parametric", "combine"):
        if mode in means and "in_context" in means:
            ratios[f"{mode} / in_context"] = ratio(means[mode], means["in_context"])
    return ratios


def format_table(report: Report) -> Table:
    """Return a table for `rich`: one row a mode, then differences and ratios, all in %."""
    counts = sorted({mode.n for mode in report.modes.values()})
    title = f"{report.question_set}: {', '.join(map(str, counts)) or 'no'} questions"
    caption = "in %, with 95 % bootstrap intervals"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("mode", min_width=len("parametric -"))  # longer names break at their spaces
    for name in METRICS:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for mode, result in report.modes.items():
        table.add_row(mode, *(_cell(result.metrics[m]) for m in METRICS))
    table.add_section()
    for name, difference in report.differences.items():
        table.add_row(name, *(_cell(difference[m], "+") for m in METRICS))
    table.add_section()
    for name, ratios in report.ratios.items():
        cells = ["-" if ratios[m] is None else f"{100 * ratios[m]:.0f}" for m in METRICS]
        table.add_row(name, *cells)
    return table


def _cell(estimate: Estimate, sign: str = "") -> str:
    """Format `41.2` over its interval `38.0..44.5`, narrow enough for 80 columns."""
    text = f"{100 * estimate.mean:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}\n{100 * estimate.low:{sign}.1f}..{100 * estimate.high:{sign}.1f}"
