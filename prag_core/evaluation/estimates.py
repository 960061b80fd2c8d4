"""Estimates: one value a question goes in, means with 95 % bootstrap intervals come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMALLEST_SAMPLE = 5  # below it a percentile interval says nothing
BLOCK = 4_000_000  # resampled values held at a time: 32 MB of indices and of values


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron, 1979).

    Args:
        values: one value a question.
        level: probability mass inside the interval.
        resamples: samples drawn with replacement, each as long as `values`.
        seed: of the drawing; equal lengths and seeds draw the same questions.

    Raises:
        ValueError: fewer than 5 values, a level outside (0, 1), or no resamples.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"got level {level} and {resamples} resamples, expected 0 < level < 1 and at least 1"
        )
    values = np.asarray(values, dtype=np.float64)  # (N,)
    if len(values) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(values)} values, expected at least {SMALLEST_SAMPLE}: fewer give an "
            "interval that means nothing; evaluate more questions, or report the mean alone"
        )
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(values))  # resamples a block, so that memory stays bounded
    means = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), len(values))
        means.append(values[generator.integers(len(values), size=shape)].mean(1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return (mean, low, high) of the difference a - b over the same questions.

    Pairs are resampled together, so what makes a question hard for both cancels out.

    Raises:
        ValueError: unequal lengths, or what `bootstrap_interval` refuses.
    """
    if len(a) != len(b):
        raise ValueError(
            f"got {len(a)} and {len(b)} values, expected one pair a question: "
            "compare two modes on the same questions"
        )
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = bootstrap_interval(difference, level, resamples, seed)
    return float(difference.mean()), low, high


def paired_permutation(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p of the mean difference under random signs (Fisher, 1935).

    Under the null hypothesis a question's two values may be swapped. The observed assignment
    counts as one of the resamples, so p is never 0.

    Raises:
        ValueError: unequal lengths or fewer than 5 values.
    """
    if len(a) != len(b) or len(a) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(a)} and {len(b)} values, expected one pair a question, at least "
            f"{SMALLEST_SAMPLE}: compare two modes on the same questions"
        )
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    difference = difference[difference != 0]  # a tie is the same under either sign
    if not len(difference):
        return 1.0
    generator = np.random.default_rng(seed)
    observed, extreme = abs(difference.sum()) - 1e-9, 0
    rows = max(1, BLOCK // len(difference))
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), len(difference))
        signs = generator.integers(0, 2, size=shape) * 2 - 1
        extreme += int((abs(signs @ difference) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def ratio_interval(
    top: Sequence[float],
    bottom: Sequence[float],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return (ratio, low, high) of mean(top) / mean(bottom), questions resampled in pairs.

    Raises:
        ValueError: unequal lengths or fewer than 5 values.
    """
    if len(top) != len(bottom) or len(top) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(top)} and {len(bottom)} values, expected one pair a question, at least "
            f"{SMALLEST_SAMPLE}"
        )
    pairs = np.stack([np.asarray(top, np.float64), np.asarray(bottom, np.float64)], 1)  # (N, 2)
    generator = np.random.default_rng(seed)
    means = np.stack(
        [pairs[generator.integers(len(pairs), size=len(pairs))].mean(0) for _ in range(resamples)]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = means[:, 0] / means[:, 1]
        low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
        mean = pairs[:, 0].mean() / pairs[:, 1].mean()
    return float(mean), float(low), float(high)
