import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from prag_core.evaluation.report.figures import (
    INK,
    MANY_POINTS,
    TITLES,
    WIDTH,
    figures,
    frequent_topics,
    plain,
    svg,
)
from tests.fixtures.comparisons import HOSTILE, make_report

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


@pytest.fixture(scope="module")
def made():
    return figures(make_report())


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({}, set()),
        ({"quality": None}, {"quality"}),
        ({"similarity": None}, {"similarity"}),
        ({"merging": None}, {"merging"}),
        ({"questions": 0}, {"quality", "merging"}),
        ({"questions": 3}, set()),
        ({"paths": ("trained",), "documents": 1}, set()),
        ({"paths": ("trained", "generated", "foreign")}, set()),
    ],
)
def test_a_figure_is_left_out_where_its_part_is(changed, gone):
    found = figures(make_report(**changed))
    assert list(found) == [name for name in TITLES if name not in gone]
    assert all(svg(figure, name, "t") for name, figure in found.items())


def test_bars_and_intervals_are_the_reports(made):
    axes = made["quality"].axes[0]
    widths = {
        tick.get_text(): bar.get_width()
        for tick, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    }
    assert widths["generated, parametric"] == pytest.approx(55.0)
    assert widths["trained, shuffled"] == pytest.approx(1.0)
    assert any(np.allclose(ends, (51.0, 59.0)) for ends in _whiskers(axes))
    assert not _whiskers(figures(make_report(questions=3))["quality"].axes[0])


def _whiskers(axes) -> list[np.ndarray]:
    """Return the ends of the intervals that are drawn."""
    lines = [line for line in axes.collections if hasattr(line, "get_segments")]
    segments = [segment for line in lines for segment in line.get_segments()]
    return [s[:, 0] for s in segments if s.size and np.isfinite(s).all()]


def test_merged_series_are_the_reports(made):
    bars = {bar.get_label(): bar for bar in made["merging"].axes[0].containers}
    line, _, (arms,) = bars["generated, ones"].lines
    assert line.get_ydata()[0] == pytest.approx(55.0)
    assert arms.get_segments()[0][:, 1] == pytest.approx([50.0, 60.0])
    assert len(bars) == 7


def test_controls_are_told_apart_without_colour(made):
    axes = made["quality"].axes[0]
    hatched = {
        tick.get_text()
        for tick, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
        if bar.get_hatch()
    }
    paths = ("trained", "generated")
    assert hatched == {"sft", *(f"{p}, {c}" for p in paths for c in ("shuffled", "mean"))}


def test_no_bar_leaves_the_frame(made):
    axes = made["quality"].axes[0]
    assert axes.get_xlim()[1] > max(bar.get_width() for bar in axes.patches)


def test_topics_that_have_a_colour():
    topics = ["b", "a", "a", "b", "once", "", ""] + [f"t{n}" for n in range(9) for _ in range(3)]
    assert frequent_topics(topics) == [f"t{n}" for n in range(7)]
    assert frequent_topics(["b", "a", "a", "b", "once", "", ""]) == ["a", "b"]
    assert frequent_topics([]) == []


def test_missing_points_and_topics_are_drawn_over():
    report = make_report()
    report["similarity"]["variance"] = {}
    report["similarity"]["map"][0]["x"] = None
    report["similarity"]["map"][1]["y"] = float("nan")
    for document in report["documents"]:
        document["topic"] = None
    found = figures(report)
    assert not found["similarity"].legends


def test_many_adapters_are_one_picture():
    found = svg(figures(make_report(documents=MANY_POINTS + 1))["similarity"], "map", "t")
    assert "<image" in found
    assert len(found) < 1_000_000


def test_the_same_report_gives_the_same_svg(made):
    again = figures(make_report())
    for name in TITLES:
        assert svg(made[name], name, "t") == svg(again[name], name, "t")


def test_svg_is_readable_and_stands_beside_others(made):
    seen = set()
    for name, figure in made.items():
        text = svg(figure, name, TITLES[name])
        root = ElementTree.fromstring(text)
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        seen |= set(ids)
        assert root.get("role") == "img" and TITLES[name] in text
        assert "currentColor" in text and INK not in text
        assert "<text" in text and "<style" not in text and "<metadata" not in text
        fonts = [node.get("style") for node in root.iter("{http://www.w3.org/2000/svg}text")]
        sizes = [float(style.split("px")[0].split()[-1]) for style in fonts]
        assert min(sizes) >= 9
        assert figure.get_figwidth() == WIDTH


def test_every_reference_in_the_svg_has_its_target(made):
    for name, figure in made.items():
        text = svg(figure, name, "t")
        targets = set(re.findall(r'\bid="([^"]+)"', text))
        assert set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', text)) <= targets


def test_foreign_names_are_text():
    report = make_report()
    for document in report["documents"]:
        document["topic"] = HOSTILE if document["topic"] == "Lakes" else "_$\\frac$ 漢\x00\n"
    text = svg(figures(report)["similarity"], "map", "t")
    assert "<script" not in text
    assert "&lt;script" in text
    assert "$\\frac$ 漢" in text
    assert plain("a\n\x00b   c") == "a b c"
    assert plain("long name of a topic", 8) == "long na…"


def test_settings_of_the_program_are_left_alone():
    before = dict(matplotlib.rcParams)
    svg(figures(make_report(documents=3))["quality"], "quality", "t")
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot_is_imported():
    code = "import sys, prag_core.evaluation.report.figures\n"
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
