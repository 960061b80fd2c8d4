"""Look of the figures: one style for all of them; figures go in, SVG comes out.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; where colour
means something, a shape, a hatch or a line style says it too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import matplotlib
from matplotlib.figure import Figure

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
