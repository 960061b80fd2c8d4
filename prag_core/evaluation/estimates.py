"""Estimates: one value a question goes in, means, differences and ratios with intervals come out.

Questions about one document share an adapter, so they are not independent: what is resampled is
documents, each with all its questions. Differences are paired by question; where many are tested,
`correct` adjusts their p values.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from prag_core.corpus.questions import Question

SMALLEST_SAMPLE = 5  # documents; below it a percentile interval says nothing
RESAMPLES, LEVEL = 2000, 0.95
SIGNS = 5  # draws of random signs for every resample: p values need more than ends
POWER = 0.8  # chance to see a difference of the size that is called detectable
BLOCK = 4_000_000  # weights in memory at a time, 32 MB in float64
KEPT = 64_000_000  # weights kept between estimates, a byte each


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        mean: of the whole sample.
        low: lower end; None below 5 documents.
        high: upper end.
        p: of a paired difference: two-sided, that there is none.
        adjusted_p: the same among all that are tested beside it (see `correct`).
        detectable: the smallest difference that this sample could show (see `detectable`).
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    detectable: float | None = None


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def format_estimate(
    estimate: Estimate | Mapping | None, factor: float = 100, digits: int = 1, sign: str = ""
) -> str:
    """Write "x (low to high)", the one way in every table; "-" where there is no value.

    Args:
        estimate: or its fields, as JSON has them.
        factor: 100 writes shares in %.
        digits: behind the point.
        sign: `+` shows the sign of positive values too.
    """
    if isinstance(estimate, Mapping):
        estimate = Estimate(**{name: estimate.get(name) for name in ("mean", "low", "high")})
    if estimate is None or estimate.mean is None or math.isnan(estimate.mean):
        return "-"
    ends = (estimate.mean, estimate.low, estimate.high)
    mean, low, high = ("" if v is None else f"{factor * v:{sign}.{digits}f}" for v in ends)
    return f"{mean} ({low} to {high})" if low and high else mean


def document_groups(questions: Sequence[Question]) -> list[str]:
    """Name the group of every question: its first gold document, or itself where it has none.

    Questions that share any of several gold documents are of one group, and so are those that a
    chain of such questions links.
    """
    leaders: dict[str, str] = {}  # document -> another of its group, or itself: the first one

    def leader(document: str) -> str:
        while (other := leaders.setdefault(document, document)) != document:
            document = other
        return document

    firsts = [q.gold_ids[0] if q.gold_ids else f"question {q.id}" for q in questions]
    for question, first in zip(questions, firsts, strict=True):
        for document in question.gold_ids[1:]:
            leaders[leader(document)] = leader(first)
    return [leader(first) for first in firsts]


def detectable(deviation: float) -> float:
    """Return the smallest true difference that a test at 5 % shows in 80 % of all samples.

    (z(1 - 0.05 / 2) + z(0.8)) SE = 2.80 SE (Bloom, 1995, "Minimum detectable effects", Evaluation
    Review 19(5); for evaluations of language models Miller, 2024, arXiv 2411.00640).

    Args:
        deviation: standard error of the paired difference, of documents.
    """
    z = NormalDist().inv_cdf
    return (z((1 + LEVEL) / 2) + z(POWER)) * deviation


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values that are tested together, so that one false finding in all stays below 5 %.

    The step-down procedure of Holm (1979): the i-th smallest of m is multiplied by m + 1 - i, and
    is no smaller than those before it.
    """
    order = np.argsort(values, kind="stable")  # (m,)
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.asarray(values, np.float64)[order] * factors)
    return adjusted.clip(max=1).tolist()


def correct(
    differences: Mapping[str, Mapping[str, Estimate]],
) -> dict[str, dict[str, Estimate]]:
    """Return differences with p values adjusted among all of them, metric by metric.

    Metrics are not counted as further tests: they score the same answers, and one of them, F1, is
    the headline.

    Args:
        differences: name -> metric -> paired difference; one without p stays as it is.
    """
    corrected = {name: dict(metrics) for name, metrics in differences.items()}
    for metric in {metric for metrics in differences.values() for metric in metrics}:
        tested = {n: m[metric].p for n, m in differences.items() if metric in m}
        names = [name for name, p in tested.items() if p is not None]
        for name, p in zip(names, holm([tested[name] or 0.0 for name in names]), strict=True):
            corrected[name][metric] = replace(corrected[name][metric], adjusted_p=p)
    return corrected


class Bootstrap:
    """Resamples the groups of a sample (Efron, 1979); all estimates of it share the draws.

    Values of groups are summed first, so that a resample is one row of weights: how often each
    group was drawn. A mean is a ratio, too: that of the sums to the numbers of values.
    """

    def __init__(
        self, groups: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
    ) -> None:
        """Number the groups; nothing is drawn yet.

        Args:
            groups: the group of every value, e.g. `document_groups`.
            seed: of the drawing.
            resamples: samples drawn with replacement, each of as many groups as there are.
        """
        places: dict[Hashable, int] = {}
        rows = [places.setdefault(group, len(places)) for group in groups]
        # N values in G groups.
        self._rows = np.array(rows, dtype=np.int64)  # (N,) number of each value's group
        self.size, self.seed, self.resamples = len(places), seed, resamples
        self._draws: list[np.ndarray] = []  # blocks of weights (B, G), as far as they are kept

    def mean(self, values: Sequence[float]) -> Estimate:
        """Return the mean of one value a question."""
        return self.ratio(values, np.ones(len(self._rows))) or Estimate(math.nan)

    def difference(self, a: Sequence[float], b: Sequence[float]) -> Estimate:
        """Return the mean of a - b with p: what makes a question hard for both cancels out.

        p is that of random signs (Fisher, 1935), flipped group by group: without a difference, a
        document's values may be swapped. The signs observed count as one draw, so p is never 0.
        """
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
        estimate = self.mean(difference)
        if self.size < SMALLEST_SAMPLE:
            return estimate
        sums = self._sums(difference)  # (G,)
        deviation = self._deviation(sums)
        size = detectable(deviation) if deviation else None  # nothing varies: it says nothing
        return replace(estimate, p=self._sign_test(sums), detectable=size)

    def _sign_test(self, sums: np.ndarray) -> float:
        """Return how often random signs make the sum (G,) as large as it is."""
        # A sum that a rounding error makes smaller is still as extreme.
        least, extreme, count = abs(sums.sum()) - 1e-9, 0, SIGNS * self.resamples
        generator = np.random.default_rng(self.seed)  # the same signs for every pair compared
        for size in self._blocks(count):
            signs = generator.integers(0, 2, size=(size, self.size), dtype=np.int8) * 2.0 - 1
            extreme += int((abs(signs @ sums) >= least).sum())
        return (extreme + 1) / (count + 1)

    def _deviation(self, sums: np.ndarray) -> float:
        """Return the standard error of the mean whose groups have these sums (G,).

        That of a ratio of sums, of values to their numbers, over groups (Cochran, 1977, 2.11).
        """
        counts = self._sums(np.ones(len(self._rows)))  # (G,)
        rest = sums - counts * (sums.sum() / counts.sum())
        return float(np.sqrt(self.size / (self.size - 1) * (rest**2).sum()) / counts.sum())

    def ratio(self, top: Sequence[float], bottom: Sequence[float]) -> Estimate | None:
        """Return mean(top) / mean(bottom) over the same questions; None where that divides by 0.

        Without an interval where so many resamples divide by 0 that they may be its ends.
        """
        tops, bottoms = self._sums(top), self._sums(bottom)  # (G,) each
        if not bottoms.sum():
            return None
        mean = float(tops.sum() / bottoms.sum())
        if self.size < SMALLEST_SAMPLE:
            return Estimate(mean)
        pairs = np.stack([tops, bottoms], 1)  # (G, 2)
        drawn = np.concatenate([block @ pairs for block in self._weights()])  # (resamples, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = drawn[:, 0] / drawn[:, 1]
        undefined = 1 - np.isfinite(ratios).mean()
        if undefined > (1 - LEVEL) / 2:
            return Estimate(mean)
        defined = ratios[np.isfinite(ratios)]
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        return Estimate(mean, low, high)

    def _sums(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum of every group's values, (G,)."""
        if len(values) != len(self._rows):
            raise ValueError(
                f"got {len(values)} values, expected {len(self._rows)}, one a question: compare "
                "conditions on the same questions"
            )
        return np.bincount(self._rows, np.asarray(values, np.float64), minlength=self.size)

    def _weights(self) -> Iterator[np.ndarray]:
        """Yield how often each group is drawn, in blocks (B, G); the same at every call."""
        if self._draws:
            yield from (block.astype(np.float64) for block in self._draws)
            return
        generator, count = np.random.default_rng(self.seed), self.size
        keep = count * self.resamples <= KEPT
        for size in self._blocks(self.resamples):
            drawn = generator.integers(count, size=(size, count))
            drawn += np.arange(size)[:, None] * count  # a range of numbers for each resample
            # One count for all resamples, (B * G,), then one row each.
            block = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
            if keep:
                self._draws.append(block.astype(np.uint8))  # 255 times: (1/G)^255, never
            yield block.astype(np.float64)

    def _blocks(self, total: int) -> Iterator[int]:
        """Yield numbers of resamples that fit into memory together."""
        rows = max(1, BLOCK // max(self.size, 1))
        yield from (min(rows, total - start) for start in range(0, total, rows))
