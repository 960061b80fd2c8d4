"""Figures: a comparison's report goes in, matplotlib figures come out.

    quality: bars by condition;  merging: lines over k

A figure is left out where the report lacks its part. No window system and no pyplot are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from prag_core.evaluation.conditions import (
    condition_name,
    is_control,
    label,
    path_of,
    reading_order,
)
from prag_core.evaluation.report.style import (
    INK,
    new_figure,
    path_colour,
    plain,
    styled,
)

TITLES = {
    "quality": "Answer containment and F1 of every condition, with 95 % intervals",
    "merging": "Answer containment over the number of merged documents",
}
SMALLEST_SPAN = 5  # %; where all scores are 0, an axis is not about hundredths
CONTROL_HATCHES = {"shuffled": "////", "mean": "\\\\\\\\", "sft": "||||"}
WEIGHT_LINES = {"ones": "-o", "mean": "--s", "score": ":^", "relative": "-.v"}


def figures(report: Mapping) -> dict[str, Figure]:
    """Return the figures of the parts that the report holds, in the order of `TITLES`.

    Args:
        report: report.json of `prag compare`; parts may be missing.
    """
    makers = {"quality": _quality, "merging": _merging}
    with styled():
        return {key: make(report[key]) for key, make in makers.items() if report.get(key)}


def _series(points: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """Return means (K,) and the lengths of their intervals' arms (2, K), in %.

    Where there is no interval the arms are NaN, which matplotlib does not draw.
    """
    ends = [[point.get(end) for end in ("mean", "low", "high")] for point in points]
    means, low, high = 100 * np.array(ends, dtype=float).T  # (K,) each
    return means, np.array([means - low, high - means]).clip(0)  # rounding may make -1e-17


def _quality(part: Mapping) -> Figure:
    names = reading_order(part["conditions"])
    cells = {name: part["conditions"][name]["metrics"] for name in names}
    figure, axes = new_figure(0.9 + 0.25 * len(cells))
    means, arms = _series([metrics["containment"] for metrics in cells.values()])  # (K,), (2, K)
    for place, (name, mean) in enumerate(zip(cells, means, strict=True)):
        colour, control = path_colour(path_of(name)), is_control(name)
        # A control is hatched and empty: it is told apart without its colour.
        fill = "none" if control else colour
        hatch = CONTROL_HATCHES[condition_name(name)] if control else None
        axes.barh(place, mean, 0.66, facecolor=fill, edgecolor=colour, hatch=hatch, linewidth=0.9)
    places = range(len(cells))
    axes.errorbar(means, places, xerr=arms, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    # A diamond beside the bar: a second row of bars would say the same once more.
    f1 = [100 * metrics["f1"]["mean"] for metrics in cells.values()]
    diamonds = {"marker": "D", "s": 20, "facecolor": "white", "edgecolor": INK, "zorder": 4}
    axes.scatter(f1, places, linewidth=1, **diamonds)
    axes.set_yticks(places, [label(name) for name in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)  # the first on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlim(0, max(axes.get_xlim()[1], SMALLEST_SPAN))
    axes.set_xlabel("bar: containment, ◇: F1 (%); hatched: controls", loc="right")
    return figure


def _merging(part: Mapping) -> Figure:
    figure, axes = new_figure(3.5)
    counts, series = np.array(part["k"], dtype=float), part["series"]
    for number, (name, points) in enumerate(series.items()):
        line = WEIGHT_LINES.get(condition_name(name), "-D")
        colour = path_colour(path_of(name)) if path_of(name) else INK
        means, arms = _series([points[str(k)] for k in part["k"]])  # (K,), (2, K)
        # Side by side, so that intervals can be told apart.
        shift = 0.014 * (number - (len(series) - 1) / 2)
        axes.errorbar(
            counts * (1 + shift),
            means,
            yerr=arms,
            color=colour,
            ecolor=to_rgba(colour, 0.5),
            fmt=line,
            markersize=4,
            elinewidth=0.8,
            label=plain(label(name)),
        )
    axes.set_xscale("log")  # one document more means less, the more there are
    axes.set_xticks(counts, [f"{k:g}" for k in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, max(axes.get_ylim()[1], SMALLEST_SPAN))
    axes.grid(axis="y")
    axes.set_xlabel("documents merged, one of them gold (k)")
    axes.set_ylabel("containment (%)")
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    return figure
