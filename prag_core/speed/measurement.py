"""Measurements of the benchmark, and the process in which the PEFT baselines run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch

from prag_core.model.base_model import BaseModel, model_source


@dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        part: part of the benchmark.
        name: what was measured.
        ours: our value.
        unit: of both values.
        baseline: the other value; None where there is none.
        ratio: how many times better ours is; None without baseline.
        target: what the row should reach, in words; empty for one that is only reported.
        met: whether it does; None without target.
        note: counts, and what the baseline is.
    """

    part: str
    name: str
    ours: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""

    def as_row(self) -> dict:
        """Return the fields as JSON."""
        return asdict(self)


def compared(
    part: str,
    name: str,
    ours: float,
    baseline: float,
    unit: str,
    at_least: float | None = None,
    note: str = "",
) -> Measurement:
    """Compare two values; a unit with a slash is a rate (more is better), else less is better.

    Args:
        part: part of the benchmark.
        name: what was measured.
        ours: our value.
        baseline: the other value.
        unit: of both, e.g. `documents/s` or `ms`.
        at_least: the ratio to reach; None only reports it.
        note: counts, and what the baseline is.
    """
    ratio = ours / baseline if "/" in unit else baseline / ours
    target = "" if at_least is None else f">= {at_least:g}x"
    met = None if at_least is None else ratio >= at_least
    return Measurement(part, name, ours, unit, baseline, ratio, target, met, note)


def limited(
    part: str, name: str, ours: float, unit: str, at_most: float, note: str = ""
) -> Measurement:
    """Hold a value to an upper limit."""
    met = ours <= at_most
    return Measurement(part, name, ours, unit, target=f"<= {at_most:g} {unit}", met=met, note=note)


def reached(
    part: str, name: str, ours: float, unit: str, at_least: float, note: str = ""
) -> Measurement:
    """Hold a value to a lower limit."""
    met = ours >= at_least
    return Measurement(part, name, ours, unit, target=f">= {at_least:g} {unit}", met=met, note=note)


def seconds(action: Callable[[], object]) -> float:
    """Run the action and return how long it took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class PeftProcess:
    """A running peft_baseline.py; each call sends one task and waits for its reply."""

    def __init__(self, base: BaseModel) -> None:
        """Start it on the base model's folder, with as many threads as here."""
        source = str(model_source(base.name))
        command = [sys.executable, "-m", "prag_core.speed.peft_baseline", source]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, task: str, **arguments) -> dict:
        """Run one task of `PeftBaseline` there.

        Raises:
            ChildProcessError: the process ended; what it said is on standard error.
        """
        request = {"task": task, "threads": torch.get_num_threads()} | arguments
        with suppress(BrokenPipeError):  # it ended already: no reply comes
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise ChildProcessError(
                f"got no reply from the PEFT process (status {self._process.wait()}), expected "
                "times: see its error above"
            )
        return json.loads(reply)

    def __enter__(self) -> PeftProcess:
        """Return the running process."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
