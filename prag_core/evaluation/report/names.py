"""Names: `PATH/CONDITION`, or a condition that all paths share, goes in; its meaning comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prag_core.evaluation.conditions import MEAN, SHUFFLED

CONTROLS = ("sft", SHUFFLED, MEAN)  # what they score is no knowledge of the document


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def path_of(name: str) -> str:
    """Return who made the adapters; empty where all paths share the condition."""
    return name.rpartition("/")[0]


def condition_name(name: str) -> str:
    """Return the condition without its path."""
    return name.rpartition("/")[2]


def is_control(name: str) -> bool:
    """Return whether what it scores says nothing of the document."""
    return condition_name(name) in CONTROLS


def label(name: str) -> str:
    """Write `PATH/CONDITION` as `PATH, CONDITION`; what is divided by what stays."""
    return name.replace("/", ", ", 1)


def reading_order(names: Iterable[str]) -> list[str]:
    """Return shared conditions, then every path's own, then the controls."""
    # sorted() is stable: within a kind names stay as they come.
    return sorted(names, key=lambda name: (is_control(name), bool(path_of(name))))
