"""Prompts: the report of a base model that reads in several wordings goes in, the best is kept."""

from __future__ import annotations

from pathlib import Path

from prag_core.evaluation.results import Report
from prag_core.model.base_model import BaseModel
from prag_core.model.wordings import READING, keep_choice

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
