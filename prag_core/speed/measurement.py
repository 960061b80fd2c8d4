"""Measurements of the benchmark, and the process in which the PEFT baselines run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from prag_core.model.base_model import BaseModel, model_source
from prag_core.speed import peft_baseline

Peft = Callable[..., dict]  # (task, its arguments) -> its reply


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
    if math.isnan(least):  # nothing to reach
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
    start = time.perf_counter()  # never set back, as a clock may be
    action()
    return time.perf_counter() - start


@contextmanager
def peft_process(base: BaseModel) -> Iterator[Peft]:
    """Run a process for `peft_baseline`; each call is one of its tasks, and waits for the reply.

    It works on the base model's folder, with as many threads as here. What goes wrong there is
    raised here.
    """
    folder = str(model_source(base.name))
    # Spawned, not forked: `load_base_model` has changed malloc in this one.
    context, threads = get_context("spawn"), torch.get_num_threads()
    with ProcessPoolExecutor(1, context, peft_baseline.prepare, (threads,)) as pool:
        yield lambda task, **arguments: pool.submit(
            getattr(peft_baseline, task), folder, **arguments
        ).result()
