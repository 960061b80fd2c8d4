"""Words and numbers of a comparison: values and names go in, text as a reader wants it comes out.

An estimate is {"mean", "low", "high"}, as report.json has it; a missing value is None or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MISSING = "–"
CONTROLS = ("sft", "shuffled", "mean")  # what they score is no knowledge of the document
SIGNIFICANT = 0.05
SHOWN_METRICS = ("containment", "exact_match", "f1")
METRIC_NAMES = {"containment": "containment", "exact_match": "exact match", "f1": "F1"}
MODE_NOTES = {
    "closed_book": "no document, no adapter",
    "in_context": "document in the prompt",
    "da_rag": "augmented document in the prompt",
    "sft": "one adapter for the whole corpus",
    "parametric": "adapter, no text in the prompt",
    "combine": "adapter, and document in the prompt",
    "shuffled": "another document's adapter",
    "mean": "mean of all documents' adapters",
}
MERGE_NOTES = {
    "in_context": "k in the prompt",
    "ones": "weight 1 each",
    "mean": "weight 1/k each",
    "score": "retrieval scores",
    "relative": "retrieval scores over the best",
}

Estimate = Mapping[str, float | None]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its value, and in smaller print its interval and p value."""

    text: str
    detail: str = ""
    p: str = ""


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def mean_of(estimate: Estimate | None) -> float | None:
    """Return an estimate's mean, None where there is none."""
    value = (estimate or {}).get("mean")
    return value if known(value) else None


def interval_of(estimate: Estimate | None) -> tuple[float, float] | None:
    """Return an estimate's interval, None where there is none."""
    low, high = (estimate or {}).get("low"), (estimate or {}).get("high")
    return (low, high) if known(low) and known(high) else None


def estimate_cell(
    estimate: Estimate | None, digits: int = 1, factor: float = 100, sign: str = ""
) -> Cell:
    """Format a mean with its interval and, where there is one, its p value; in % by default."""
    mean, interval = mean_of(estimate), interval_of(estimate)
    if mean is None:
        return Cell(MISSING)
    detail = "" if interval is None else interval_text(interval, digits, factor, sign)
    p = estimate.get("p")
    return Cell(number(factor * mean, digits, sign), detail, p_text(p) if known(p) else "")


def number(value: float, digits: int = 1, sign: str = "") -> str:
    """Format a number; what rounds to 0 has no sign."""
    text = f"{value:{sign}.{digits}f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def interval_text(
    interval: tuple[float, float], digits: int = 1, factor: float = 100, sign: str = ""
) -> str:
    """Format `38.0 to 44.5`."""
    return " to ".join(number(factor * end, digits, sign) for end in interval)


def p_text(p: float) -> str:
    """Format a p value as `p = .003`."""
    if p < 0.001:
        return "p < .001"
    return "p = 1" if p > 0.9995 else f"p = {p:.3f}".replace("= 0.", "= .")


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share as `41.2 %`."""
    return f"{100 * value:.{digits}f} %" if known(value) else MISSING


def duration(seconds: float | None) -> str:
    """Format seconds in the unit that keeps the number short."""
    if not known(seconds):
        return MISSING
    if seconds < 0.1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Format bytes in decimal units."""
    if not known(count):
        return MISSING
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.2f} {unit}"
    return f"{count:.0f} B"


def times(ratio: float) -> str:
    """Format a ratio as `3.4 times` or `180 times`."""
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def counted(count: int, noun: str) -> str:
    """Format `1 document`, `1,200 documents`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def joined(names: list[str]) -> str:
    """Join as `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def condition(name: str) -> str:
    """Return the condition of `PATH/CONDITION`, or the name of a mode that all paths share."""
    return name.rsplit("/", 1)[-1]


def path_of(name: str) -> str:
    """Return the path of `PATH/CONDITION`, empty where all paths share it."""
    return name.rsplit("/", 1)[0] if "/" in name else ""


def is_control(name: str) -> bool:
    """Return whether a mode's score says nothing of the document."""
    return condition(name) in CONTROLS


def label(name: str) -> str:
    """Write `PATH/CONDITION` as `PATH, CONDITION`."""
    return ", ".join(filter(None, (path_of(name), condition(name))))


def difference_label(a: str, b: str) -> str:
    """Write what is subtracted from what."""
    if path_of(a) and path_of(b) and condition(a) == condition(b):
        return f"{path_of(a)} - {path_of(b)}, {condition(a)}"
    return f"{label(a)} - {condition(b) if path_of(a) == path_of(b) else label(b)}"


def ordered_modes(modes: Mapping[str, object]) -> list[str]:
    """Return shared modes, then every path's own, then the controls."""
    return sorted(modes, key=lambda name: is_control(name) + (not path_of(name)) * -0.5)
