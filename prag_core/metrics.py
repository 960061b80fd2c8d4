"""Metrics: a predicted and the golden answers go in, scores with bootstrap intervals come out."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
SMALLEST_SAMPLE = 5  # below it a percentile interval says nothing
BLOCK = 4_000_000  # resampled values held at a time: 32 MB of indices and of values


@dataclass(frozen=True)
class Scores:
    """Scores of one answer, each 0 to 1 and each the best over the golden answers.

    Attributes:
        exact_match: normalised texts are equal.
        f1: harmonic mean of word precision and recall (Rajpurkar et al., 2016).
        precision: share of the predicted words that are in the golden answer.
        recall: share of the golden words that are in the prediction.
        containment: the golden answer stands in the prediction as whole words.
    """

    exact_match: float
    f1: float
    precision: float
    recall: float
    containment: float


METRICS = tuple(Scores.__dataclass_fields__)


def normalise(text: str) -> str:
    """Lower case, drop ASCII punctuation and articles, squeeze space, as SQuAD's own script."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def score_answer(prediction: str, golden_answers: Sequence[str]) -> Scores:
    """Score one prediction; every metric takes its own best golden answer.

    Raises:
        ValueError: no golden answers, or one string in place of a list.
    """
    if isinstance(golden_answers, str) or not golden_answers:
        raise ValueError(
            f"got golden answers {golden_answers!r}, expected a list of at least one string"
        )
    columns = zip(*(_score(prediction, gold) for gold in golden_answers), strict=True)
    return Scores(*(max(column) for column in columns))


def _score(prediction: str, gold: str) -> tuple[float, ...]:
    """Return the values of `Scores` for one golden answer."""
    predicted, golden = normalise(prediction), normalise(gold)
    exact = float(predicted == golden)
    # Spaces at both ends make it whole words; an empty golden answer matches only emptiness.
    contained = float(f" {golden} " in f" {predicted} ")
    predicted_words, golden_words = predicted.split(), golden.split()
    if not predicted_words or not golden_words:  # nothing to divide by: SQuAD takes equality
        return exact, exact, exact, exact, contained
    common = sum((Counter(predicted_words) & Counter(golden_words)).values())
    precision, recall = common / len(predicted_words), common / len(golden_words)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return exact, f1, precision, recall, contained


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
