"""Figures of the adapters themselves: the part `similarity` goes in, a map and norms come out."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prag_core.evaluation.report.style import GREY, INK, MARKERS, TOPIC_COLOURS, new_figure, plain
from prag_core.evaluation.report.wording import known

MANY_POINTS = 1500  # more are drawn as one picture: a page with every one would be megabytes


def plot_norms(report: dict) -> Figure | None:
    """Draw layers by modules, one panel a path, coloured by the norm of the weight update."""
    norms = (report.get("similarity") or {}).get("norms") or {}
    norms = {path: found for path, found in norms.items() if found["modules"] and found["layers"]}
    if not norms:
        return None
    rows = [len(found["modules"]) for found in norms.values()]
    figure, grid = new_figure(
        0.55 * len(rows) + 0.24 * sum(rows) + 0.35,
        nrows=len(rows),
        squeeze=False,
        height_ratios=[count + 0.6 for count in rows],
    )
    for axes, (path, found) in zip(grid[:, 0], norms.items(), strict=True):
        values = np.array(found["values"], dtype=float)  # (modules, L)
        drawn = axes.pcolormesh(
            np.ma.masked_invalid(values), cmap="cividis", edgecolors="face", linewidth=0.6, vmin=0
        )
        names = [plain(name.removesuffix("_proj"), 12) for name in found["modules"]]
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        step = max(1, -(-len(found["layers"]) // 8))
        ticks = range(0, len(found["layers"]), step)
        axes.set_xticks([tick + 0.5 for tick in ticks], [found["layers"][tick] for tick in ticks])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(plain(path))
        bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=6 * len(names))
        bar.outline.set_visible(False)
        bar.locator.set_params(nbins=2 if len(names) < 3 else 3)
        bar.update_ticks()
    grid[-1, 0].set_xlabel("layer")
    return figure


def plot_map(report: dict) -> Figure | None:
    """Draw every path's adapters as points; the most frequent topics have colours and shapes."""
    part = report.get("similarity") or {}
    points = [p for p in part.get("map") or () if known(p["x"]) and known(p["y"])]
    paths = [path for path in report["paths"] if any(point["path"] == path for point in points)]
    if not paths:
        return None
    topics = [document.get("topic") or "" for document in report["documents"]]
    chosen = chosen_topics(topics)
    if len(topics) > MANY_POINTS:  # a picture does not turn ink light on a dark page
        chosen = chosen[: TOPIC_COLOURS.index(INK)]
    columns = min(len(paths), 2)
    lines = -(-len(paths) // columns)
    panel = 1.75 if columns == 2 else 2.6
    figure, grid = new_figure(
        lines * (panel + 0.3) + 0.2 * -(-(len(chosen) + 1) // 2),
        nrows=lines,
        ncols=columns,
        squeeze=False,
    )
    for axes in grid.flat[len(paths) :]:
        axes.set_axis_off()
    for axes, path in zip(grid.flat, paths, strict=False):
        own = [point for point in points if point["path"] == path]
        _scatter(axes, own, topics, chosen)
        share = (part.get("variance") or {}).get(path)
        shown = f", {100 * share:.0f} % shown" if known(share) else ""
        axes.set_title(f"{plain(path)}{shown}")
    if chosen:
        _legend(figure, chosen, rest=any(topic not in chosen for topic in topics))
    return figure


def chosen_topics(topics: list[str]) -> list[str]:
    """Return the topics that get a colour: the most frequent 8 that several documents share."""
    counts = Counter(topic for topic in topics if topic)
    ordered = sorted(counts, key=lambda topic: (-counts[topic], topic))
    return [topic for topic in ordered if counts[topic] > 1][: len(TOPIC_COLOURS)]


def _scatter(axes, points: list[dict], topics: list[str], chosen: list[str]) -> None:
    few, plain_map = len(points) <= MANY_POINTS, not chosen
    named = [topics[point["document"]] for point in points]
    for place, topic in enumerate([None, *chosen]):  # the rest first: it lies below
        own = [
            point
            for point, name in zip(points, named, strict=True)
            if (name == topic if topic else name not in chosen)
        ]
        if not own:
            continue
        axes.scatter(
            [point["x"] for point in own],
            [point["y"] for point in own],
            s=(22 if topic or plain_map else 10) if few else 5,
            marker=MARKERS[place - 1] if topic else "o",
            facecolor=TOPIC_COLOURS[place - 1] if topic else GREY,
            edgecolor=INK if topic else "none",
            linewidth=0.35 if few else 0,
            alpha=1 if topic or plain_map else 0.6,
            rasterized=not few,
        )
    places = np.array([(point["x"], point["y"]) for point in points])  # (N, 2)
    low, high = places.min(axis=0), places.max(axis=0)
    half = 0.56 * max(*(high - low), 1e-9)  # square, so that distances are equal in x and y
    axes.set_xlim((low + high)[0] / 2 - half, (low + high)[0] / 2 + half)
    axes.set_ylim((low + high)[1] / 2 - half, (low + high)[1] / 2 + half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_alpha(0.35)


def _legend(figure: Figure, chosen: list[str], rest: bool) -> None:
    look = {"linestyle": "none", "markersize": 5, "markeredgewidth": 0.4}
    handles = [
        Line2D([], [], marker=marker, color=colour, markeredgecolor=INK, **look)
        for marker, colour, _ in zip(MARKERS, TOPIC_COLOURS, chosen, strict=False)
    ]
    # An underscore in front would keep a name out of the legend.
    names = [plain(topic, 22).lstrip("_") or "_ " for topic in chosen]
    if rest:
        handles.append(Line2D([], [], marker="o", color=GREY, alpha=0.6, **look))
        names.append("other topics")
    figure.legend(handles, names, loc="outside lower left", ncols=2, handletextpad=0.2)
