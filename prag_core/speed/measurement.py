"""Measurements of the benchmark, and the process in which the PEFT baselines run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from prag_core.model.base_model import BaseModel, model_source


@dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        name: what was measured.
        ours: our value.
        unit: of both values.
        baseline: the other value; None where there is none.
        ratio: how many times better ours is; None without baseline.
        target: what the row should reach, in words; empty for one that is only reported.
        met: whether it does; None without target.
        note: counts, and what the baseline is.
    """

    name: str
    ours: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def compared(
    name: str, ours: float, baseline: float, unit: str, least: float = math.nan, note: str = ""
) -> Measurement:
    """Compare two values; with `least` the ratio is to reach it (NaN: it is only reported)."""
    # A unit with a slash is a rate, e.g. documents/s: more is better, else less is.
    ratio = ours / baseline if "/" in unit else baseline / ours
    if math.isnan(least):
        return Measurement(name, ours, unit, baseline, ratio, note=note)
    return Measurement(name, ours, unit, baseline, ratio, f">= {least:g}x", ratio >= least, note)


def bounded(
    name: str, ours: float, unit: str, sign: str, bound: float, note: str = ""
) -> Measurement:
    """Hold a value to a limit, itself included; the sign is `<=` or `>=`."""
    met = ours <= bound if sign == "<=" else ours >= bound
    return Measurement(name, ours, unit, target=f"{sign} {bound:g} {unit}", met=met, note=note)


def seconds(action: Callable[[], object]) -> float:
    """Run the action and return how long it took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class PeftProcess:
    """A running peft_baseline.py; each call sends one task and waits for its reply."""

    def __init__(self, base: BaseModel) -> None:
        """Start it on the base model's folder, with as many threads as here."""
        # In a process of its own: `load_base_model` has set this one up to be fast.
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
            print(json.dumps(request), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()  # "" at the end of the process
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
        with suppress(BrokenPipeError):  # of a request that it did not read
            self._process.stdin.close()  # the end of its input ends it
        self._process.wait()
        self._process.stdout.close()
