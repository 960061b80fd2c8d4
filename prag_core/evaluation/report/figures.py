"""Figures: a comparison's report goes in, matplotlib figures come out.

    quality, controls, knowledge, norms, map, merging, cost

A figure is left out where the report lacks its part. No window system and no pyplot are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from prag_core.evaluation.report.adapter_figures import plot_map, plot_norms
from prag_core.evaluation.report.style import INK, new_figure, path_colour, plain, styled
from prag_core.evaluation.report.wording import (
    condition,
    interval_of,
    is_control,
    label,
    mean_of,
    ordered_modes,
    path_of,
)

TITLES = {
    "quality": "Answer containment and F1 of every mode, with 95 % intervals",
    "controls": "Answer containment with the document's own adapter and with controls, by path",
    "knowledge": "Loss of the documents' text and of golden answers in every condition",
    "norms": "Size of the weight updates by layer and module, one panel a path",
    "map": "Adapters of every path in two dimensions, documents coloured by topic",
    "merging": "Answer containment over the number of merged documents",
    "cost": "Time to make adapters over the number of documents",
}
SMALLEST_SPAN = 5  # %; where all scores are 0, an axis is not about hundredths
FAR_APART = 5  # paths whose speeds differ by more need logarithmic axes
WEIGHT_LINES = {
    "ones": ("-", "o"),
    "mean": ("--", "s"),
    "score": (":", "^"),
    "relative": ("-.", "v"),
}
CONTROL_HATCHES = {"shuffled": "////", "mean": "\\\\\\\\", "sft": "||||"}


def figures(report: dict) -> dict[str, Figure]:
    """Return the figures of the parts that the report holds, in the order of `TITLES`.

    Args:
        report: report.json of `prag compare`; parts may be missing.
    """
    makers = {
        "quality": _quality,
        "controls": _controls,
        "knowledge": _knowledge,
        "norms": plot_norms,
        "map": plot_map,
        "merging": _merging,
        "cost": _cost,
    }
    with styled():
        made = {name: make(report) for name, make in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def draw_bars(
    axes: Axes, names: Sequence[str], found: Sequence[dict], labels: Sequence[str], factor: float
) -> None:
    """Draw one horizontal bar with its interval an estimate; controls are hatched and empty."""
    for place, (name, estimate) in enumerate(zip(names, found, strict=True)):
        mean, colour = factor * (mean_of(estimate) or 0), path_colour(path_of(name))
        control = is_control(name) or condition(name) == "other"
        axes.barh(
            place,
            mean,
            height=0.66,
            facecolor="none" if control else colour,
            edgecolor=colour,
            hatch=CONTROL_HATCHES.get(condition(name), "////") if control else None,
            linewidth=0.9,
        )
        _whisker(axes, place, mean, interval_of(estimate), factor)
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _whisker(
    axes: Axes, place: float, mean: float, interval: tuple[float, float] | None, factor: float
) -> None:
    if interval is None:
        return
    arms = [[max(mean - factor * interval[0], 0)], [max(factor * interval[1] - mean, 0)]]
    axes.errorbar(mean, place, xerr=arms, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)


def _quality(report: dict) -> Figure | None:
    modes = (report.get("quality") or {}).get("modes")
    if not modes:
        return None
    names = ordered_modes(modes)
    labels = [label(name) for name in names]
    figure, axes = new_figure(0.9 + 0.25 * len(names))
    found = [modes[name]["metrics"].get("containment") for name in names]
    draw_bars(axes, names, found, labels, 100)
    f1 = [mean_of(modes[name]["metrics"].get("f1")) for name in names]
    shown = [(100 * value, n) for n, value in enumerate(f1) if value is not None]
    if shown:
        style = {"marker": "D", "s": 20, "facecolor": "white", "edgecolor": INK, "zorder": 4}
        axes.scatter(*zip(*shown, strict=True), linewidth=1, **style)
    first = next((n for n, name in enumerate(names) if is_control(name)), 0)
    if first:
        axes.axhline(first - 0.5, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set_xlim(0, max(axes.get_xlim()[1], SMALLEST_SPAN))
    axes.set_xlabel("bar: containment, ◇: F1 (%); hatched: controls", loc="right")
    return figure


def _controls(report: dict) -> Figure | None:
    modes = (report.get("quality") or {}).get("modes") or {}
    kinds = ("parametric", "shuffled", "mean")
    names = [f"{p}/{kind}" for p in report["paths"] for kind in kinds if f"{p}/{kind}" in modes]
    if not any(condition(name) == "shuffled" for name in names):
        return None
    words = {"parametric": "own", "shuffled": "another's", "mean": "mean of all"}
    figure, axes = new_figure(0.9 + 0.3 * len(names))
    found = [modes[name]["metrics"].get("containment") for name in names]
    labels = [f"{path_of(name)}, {words[condition(name)]}" for name in names]
    draw_bars(axes, names, found, labels, 100)
    closed = mean_of((modes.get("closed_book") or {}).get("metrics", {}).get("containment"))
    if closed is not None:
        axes.axvline(100 * closed, color=INK, linestyle="--", linewidth=1)
    dashed = "; dashed: closed_book" if closed is not None else ""
    axes.set_xlim(0, max(axes.get_xlim()[1], SMALLEST_SPAN))
    axes.set_xlabel(f"containment (%) by adapter{dashed}", loc="right")
    return figure


def _knowledge(report: dict) -> Figure | None:
    part = report.get("knowledge") or {}
    panels = [
        (title, part[key])
        for key, title in (("text", "document's text"), ("answers", "golden answers"))
        if part.get(key)
    ]
    if not panels:
        return None
    rows = [len(values) for _, values in panels]
    height = 0.5 * len(rows) + 0.27 * sum(rows) + 0.4
    figure, grid = new_figure(
        height, nrows=len(rows), squeeze=False, height_ratios=rows, sharex=True
    )
    for axes, (title, values) in zip(grid[:, 0], panels, strict=True):
        names = list(values)
        words = {"none": "no adapter", "other": "another's"}
        labels = [
            ", ".join(filter(None, (path_of(n), words.get(condition(n), condition(n)))))
            for n in names
        ]
        draw_bars(axes, names, [values[name] for name in names], labels, 1)
        axes.set_title(title)
    grid[-1, 0].set_xlim(left=0)
    grid[-1, 0].set_xlabel("nats a token; less is better", loc="right")
    return figure


def _series(points: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return means (K,) and the lengths of their intervals' arms (2, K) in %."""
    means = np.array([np.nan if mean_of(p) is None else 100 * mean_of(p) for p in points])
    ends = [interval_of(point) for point in points]
    arms = [
        (mean - 100 * end[0], 100 * end[1] - mean) if end else (0, 0)
        for mean, end in zip(means, ends, strict=True)
    ]
    return means, np.nan_to_num(np.array(arms).T).clip(0)


def _merging(report: dict) -> Figure | None:
    part = report.get("merging")
    if not part or not part["k"]:
        return None
    figure, axes = new_figure(3.5)
    series = part["series"]
    counts = np.array(part["k"], dtype=float)
    for n, (name, points) in enumerate(series.items()):
        path, weights = path_of(name), condition(name)
        line, marker = WEIGHT_LINES.get(weights, ("-", "D")) if path else ("-", "D")
        colour = path_colour(path) if path else INK
        shift = 0.014 * (n - (len(series) - 1) / 2)
        means, arms = _series(points)
        axes.errorbar(
            counts * (1 + shift),  # beside one another, so that intervals can be told apart
            means,
            yerr=arms,
            color=colour,
            ecolor=to_rgba(colour, 0.5),
            linestyle=line,
            marker=marker,
            markersize=4,
            elinewidth=0.8,
            label=plain(label(name)),
        )
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{k:g}" for k in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, max(axes.get_ylim()[1], SMALLEST_SPAN))
    axes.grid(axis="y")
    axes.set_xlabel("documents merged, one of them gold (k)")
    axes.set_ylabel(f"{plain(part['metric'])} (%)")
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    return figure


def _cost(report: dict) -> Figure | None:
    part = report.get("cost") or {}
    found = {p: (part.get(p) or {}).get("progress") for p in report["paths"]}
    found = {path: np.array(rows, dtype=float) for path, rows in found.items() if rows}  # (M, 2)
    if not found:
        return None
    figure, axes = new_figure(3.0)
    for (path, rows), marker in zip(found.items(), "os^D", strict=False):
        colour = path_colour(path)
        axes.plot(rows[:, 0], rows[:, 1], marker=marker, markersize=4, color=colour, label=path)
    slopes = [rows[-1, 1] / rows[-1, 0] for rows in found.values()]
    if min(slopes) > 0 and max(slopes) / min(slopes) > FAR_APART:
        _logarithmic(axes)
    else:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    axes.grid()
    axes.set_xlabel("documents")
    axes.set_ylabel("seconds")
    axes.legend()
    return figure


def _logarithmic(axes: Axes) -> None:
    """Scale both axes logarithmically and write numbers as they are said, not as powers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for limits, place in ((axes.get_xlim(), axes.set_xticks), (axes.get_ylim(), axes.set_yticks)):
        ticks = [n * 10**power for power in range(-4, 7) for n in (1, 2, 5)]
        ticks = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
        place(ticks if len(ticks) <= 8 else ticks[::3])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)
