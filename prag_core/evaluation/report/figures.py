"""Figures: a comparison's report goes in, matplotlib figures come out.

    quality: bars by condition;  similarity: a map a path;  merging: lines over k

A figure is left out where the report lacks its part. No window system and no pyplot are used.

One style for all of them. Colours are those of Okabe and Ito (2008), which colour-blind readers
tell apart; where colour means something, a shape, a hatch or a line style says it too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from prag_core.evaluation.conditions import (
    condition_name,
    is_control,
    label,
    path_of,
    reading_order,
)
from prag_core.evaluation.estimates import known

INK = "#1c2327"  # on a page, `svg` turns it into the colour of the text around the figure
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
ORANGE, SKY, YELLOW, PURPLE = "#e69f00", "#56b4e9", "#f0e442", "#cc79a7"
GREY = "#8a9499"
PATH_COLOURS = {"trained": BLUE, "generated": VERMILION}
TOPIC_COLOURS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 4.2  # inches; a phone shows it about as wide as it is here, so that 9 pt stay readable
STYLE = files("prag_core") / "resources" / "report" / "figures.mplstyle"


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style; what the program had set comes back afterwards."""
    # The file is read over matplotlib's defaults: a reader's own matplotlibrc changes no report.
    with matplotlib.rc_context(fname=str(STYLE)), warnings.catch_warnings():
        # Only widths are measured with the font here; the browser has one with the sign.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(height: float, **grid: object):
    """Return a figure of the common width, `height` inches high, and its axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(**grid)


def path_colour(path: str) -> str:
    """Return the colour of a path; grey for what all paths share, and for other packages'."""
    return PATH_COLOURS.get(path, GREY)


def plain(name: str, limit: int = 24) -> str:
    """Return foreign text as a label: printable, on one line, not longer than `limit`."""
    text = "".join(c if c.isprintable() else " " for c in name)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def figure_text(figure: Figure) -> str:
    """Return a figure as an SVG file, without what differs from run to run, above all the date."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with styled():
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as an `<svg>` element that is read out as an image and takes text's colour.

    The same figure gives the same text.

    Args:
        figure: to draw.
        name: put before every id, so that several figures can stand in one page.
        title: what the figure shows, without markup characters.
    """
    text = figure_text(figure)
    text = text[text.index("<svg") :].strip().replace(INK, "currentColor")
    for path, colour in PATH_COLOURS.items():  # a dark page has lighter ones
        text = text.replace(colour, f"var(--{path}, {colour})")
    # As it stands, this rule would hold for the whole page; the page's CSS has it for figures.
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(' width="', ' data-width="', 1).replace(' height="', ' data-height="', 1)
    opening = f'<svg role="img" aria-labelledby="{name}-title"'
    head, _, body = text.removeprefix("<svg").partition(">")
    return f'{opening}{head}><title id="{name}-title">{title}</title>{body}'


TITLES = {
    "quality": "Answer containment and F1 of every condition, with 95 % intervals",
    "similarity": "Adapters of every path in two dimensions, documents coloured by topic",
    "merging": "Answer containment over the number of merged documents",
}
SMALLEST_SPAN = 5  # %; where all scores are 0, an axis is not about hundredths
MANY_POINTS = 1500  # more are drawn as one picture: a page with every one would be megabytes
CONTROL_HATCHES = {"shuffled": "////", "mean": "\\\\\\\\", "sft": "||||"}
WEIGHT_LINES = {"ones": "-o", "mean": "--s", "score": ":^", "relative": "-.v"}


def figures(report: Mapping) -> dict[str, Figure]:
    """Return the figures of the parts that the report holds, in the order of `TITLES`.

    Args:
        report: report.json of `prag compare`; parts may be missing.
    """
    makers = {"quality": _quality, "similarity": _map, "merging": _merging}
    with styled():
        made = {key: make(report, report[key]) for key, make in makers.items() if report.get(key)}
    return {key: figure for key, figure in made.items() if figure is not None}


def draw_bars(axes: Axes, estimates: Mapping[str, Mapping]) -> None:
    """Draw one horizontal bar with its interval a condition, in %; controls are hatched and empty.

    Args:
        axes: to draw on.
        estimates: name of a condition -> {"mean", "low", "high"}, from above.
    """
    for place, (name, estimate) in enumerate(estimates.items()):
        colour, control = path_colour(path_of(name)), is_control(name)
        axes.barh(
            place,
            100 * estimate["mean"],
            height=0.66,
            facecolor="none" if control else colour,
            edgecolor=colour,
            hatch=CONTROL_HATCHES[condition_name(name)] if control else None,
            linewidth=0.9,
        )
    means, arms = _series(list(estimates.values()))  # (K,), (2, K)
    places = range(len(estimates))
    axes.errorbar(means, places, xerr=arms, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    axes.set_yticks(places, [label(name) for name in estimates])
    axes.set_ylim(len(estimates) - 0.4, -0.6)  # the first on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _series(points: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """Return means (K,) and the lengths of their intervals' arms (2, K), in %.

    Where there is no interval the arms are NaN, which matplotlib does not draw.
    """
    ends = [[point.get(end) for end in ("mean", "low", "high")] for point in points]
    means, low, high = 100 * np.array(ends, dtype=float).T  # (K,) each
    return means, np.array([means - low, high - means]).clip(0)  # rounding may make -1e-17


def _quality(report: Mapping, part: Mapping) -> Figure:
    cells = {
        name: part["conditions"][name]["metrics"] for name in reading_order(part["conditions"])
    }
    figure, axes = new_figure(0.9 + 0.25 * len(cells))
    draw_bars(axes, {name: metrics["containment"] for name, metrics in cells.items()})
    # A diamond beside the bar: a second row of bars would say the same once more.
    f1 = [100 * metrics["f1"]["mean"] for metrics in cells.values()]
    diamonds = {"marker": "D", "s": 20, "facecolor": "white", "edgecolor": INK, "zorder": 4}
    axes.scatter(f1, range(len(cells)), linewidth=1, **diamonds)
    axes.set_xlim(0, max(axes.get_xlim()[1], SMALLEST_SPAN))
    axes.set_xlabel("bar: containment, ◇: F1 (%); hatched: controls", loc="right")
    return figure


def _map(report: Mapping, part: Mapping) -> Figure | None:
    """Draw every path's adapters as points; the most frequent topics have colours and shapes."""
    points = [p for p in part.get("map") or () if known(p["x"]) and known(p["y"])]
    paths = [path for path in report["paths"] if any(p["path"] == path for p in points)]
    if not paths:
        return None
    topics = [document.get("topic") or "" for document in report["documents"]]
    coloured = frequent_topics(topics)
    columns = min(len(paths), 2)  # narrow enough for a phone
    rows = -(-len(paths) // columns)  # rounded up
    height = rows * (2.05 if columns == 2 else 2.9) + 0.2 * -(-(len(coloured) + 1) // 2)
    figure, grid = new_figure(height, nrows=rows, ncols=columns, squeeze=False)
    for axes in grid.flat[len(paths) :]:
        axes.set_axis_off()
    for axes, path in zip(grid.flat, paths, strict=False):
        _scatter(axes, [p for p in points if p["path"] == path], topics, coloured)
        share = (part.get("variance") or {}).get(path)
        shown = f", {100 * share:.0f} % shown" if known(share) else ""
        axes.set_title(f"{plain(path)}{shown}")
    if coloured:
        _topic_legend(figure, coloured, rest=any(topic not in coloured for topic in topics))
    return figure


def frequent_topics(topics: Sequence[str]) -> list[str]:
    """Return the topics that get a colour: the most frequent 7 that several documents share."""
    counts = Counter(topic for topic in topics if topic)
    ordered = sorted(counts, key=lambda topic: (-counts[topic], topic))
    return [topic for topic in ordered if counts[topic] > 1][: len(TOPIC_COLOURS)]


def _scatter(axes: Axes, points: list[dict], topics: list[str], coloured: list[str]) -> None:
    few = len(points) <= MANY_POINTS
    looks = dict(zip(coloured, zip(TOPIC_COLOURS, MARKERS, strict=True), strict=False))
    groups: dict[str | None, list[dict]] = {None: []}  # the rest first, so that it lies below
    for point in points:
        topic = topics[point["document"]]
        groups.setdefault(topic if topic in looks else None, []).append(point)
    for topic, group in groups.items():
        colour, marker = looks.get(topic, (GREY, "o"))
        axes.scatter(
            [point["x"] for point in group],
            [point["y"] for point in group],
            s=(22 if topic or not coloured else 10) if few else 5,
            marker=marker,
            facecolor=colour,
            edgecolor=INK if topic and few else "none",
            linewidth=0.35,
            rasterized=not few,
        )
    axes.margins(0.06)
    axes.set_aspect("equal", "datalim")  # only nearness has meaning: no stretch, no ticks
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_alpha(0.35)


def _topic_legend(figure: Figure, coloured: list[str], rest: bool) -> None:
    looks = list(zip(coloured, TOPIC_COLOURS, MARKERS, strict=False))
    looks += [("other topics", GREY, "o")] if rest else []
    handles = [
        Line2D(
            [], [], marker=m, color=c, markeredgecolor=INK, markeredgewidth=0.4, linestyle="none"
        )
        for _, c, m in looks
    ]
    # An underscore in front would keep a name out of the legend.
    names = [plain(topic, 22).lstrip("_") or "_ " for topic, *_ in looks]
    figure.legend(handles, names, loc="outside lower left", ncols=2, handletextpad=0.2)


def _merging(report: Mapping, part: Mapping) -> Figure:
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
