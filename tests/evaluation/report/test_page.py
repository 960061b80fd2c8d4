"""The report's page, as text and in a real browser (Chromium, driven by Playwright)."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import pytest

from prag_core.evaluation.report.page import render_report, write_report_page
from tests.fixtures.comparisons import HOSTILE, make_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Colours of text that is seen, with the first opaque background behind it, and its size.
CONTRASTS = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('h1, h2, p, small, th, td, dt, dd, a, li, figcaption, text')]
    .filter(node => node.getClientRects().length).map(node => {
      const style = getComputedStyle(node);
      const ink = node instanceof SVGElement ? style.fill : style.color;
      const [one, other] = [light(numbers(ink)), light(behind(node))].sort((a, b) => b - a);
      return [(one + 0.05) / (other + 0.05), node.textContent];
    });
}"""


def hostile_report(**changed: object) -> dict:
    report = make_report(title=HOSTILE, command=HOSTILE, machine=HOSTILE, base_model=HOSTILE)
    report |= {"notes": [HOSTILE]} | changed
    for document in report["documents"]:
        document |= {"title": HOSTILE, "topic": HOSTILE if document["id"] != "d0" else "\ud800"}
    for row in report["disagreements"]:
        row |= {"question": HOSTILE, "golden_answers": [HOSTILE, ""], "document": HOSTILE}
        row["answers"] = dict.fromkeys(row["answers"], f"{HOSTILE} {'verylongword' * 20}")
    return report


def every(selector: str, condition: str) -> str:
    """Return a script that says whether all nodes `n` meet a condition."""
    return f"[...document.querySelectorAll('{selector}')].every(n => {condition})"


def headings(page: str) -> list[str]:
    return re.findall(r'<h2 id="(\w+)"', page)


class Nesting(HTMLParser):
    """Checks that every element is closed where it should be."""

    VOID = ("meta", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.opened += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


@pytest.mark.parametrize("make", [make_report, hostile_report])
def test_elements_are_nested(make):
    parser = Nesting()
    parser.feed(render_report(make()))
    parser.close()
    assert parser.opened == []


def test_sections_are_those_of_the_report():
    whole = headings(render_report(make_report()))
    parts = ["quality", "knowledge", "similarity", "side_effects", "merging", "cost"]
    assert whole == [*parts, "disagreements", "notes", "made"]
    silent = headings(render_report(make_report(questions=0)))
    assert silent == [k for k in whole if k not in ("quality", "merging", "disagreements")]
    bare = dict.fromkeys((*parts, "disagreements", "notes"))
    assert headings(render_report(make_report(documents=0, questions=0, **bare))) == ["made"]
    assert "disagreements" not in headings(render_report(make_report(("trained",))))


def test_numbers_are_percent_with_intervals():
    page = render_report(make_report())
    assert "<span>55.0</span><small>51.0 to 59.0</small>" in page
    assert "<span>+18.3</span><small>+13.3 to +23.3</small>" in page
    assert "<span>−11.6</span>" in page
    few = render_report(make_report(questions=3))
    assert "<span>55.0</span></td>" in few


def test_the_heading_counts():
    assert "adapters of 1 document, asked 600 questions</h1>" in render_report(
        make_report(documents=1)
    )
    page = render_report(make_report(("trained",), questions=0))
    assert "<h1>Trained adapters of 40 documents</h1>" in page


def test_long_tables_are_cut_and_say_so():
    page = render_report(make_report())
    assert "The first 50 of 60; report.json has all" in page
    assert "mill 49?" in page and "mill 50?" not in page


def test_foreign_text_is_escaped():
    page = render_report(hostile_report())
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 50


def test_nothing_is_loaded():
    page = render_report(make_report(documents=1600))
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "@import" not in page and not re.search(r"url\((?!#|data:)", page)


def test_the_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report_page(hostile_report(), path)
    write_report_page(make_report(), path)
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install it"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a report; at the end nothing was loaded or complained of."""
    opened, problems = [], []

    def opener(report: dict, width: int = 1280, scheme: str = "light"):
        path = tmp_path / "report.html"
        write_report_page(report, path)
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(path.as_uri())
        own = [path.as_uri(), "data:,"]
        problems[:] = [problem for problem in problems if problem not in own]
        opened.append(page)
        return page

    yield opener
    for page in opened:
        page.close()
    assert problems == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("make", [make_report, hostile_report])
def test_nothing_is_wider_than_the_screen(show, make, width):
    page = show(make(), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() != "taken"
    pictures = page.query_selector_all("figure svg")
    assert len(pictures) == 3
    for picture in pictures:
        box = picture.bounding_box()
        assert box["width"] > 250 and box["height"] > 80
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        heights = "all => all.map(t => t.getBoundingClientRect().height)"
        assert min(picture.eval_on_selector_all("text", heights)) >= 9
    outside = page.evaluate(
        "[...document.querySelectorAll('figure text')].filter(t => "
        "{ const r = t.getBoundingClientRect(); return r.left < 0 || r.right > innerWidth }).length"
    )
    assert outside == 0


def test_a_figure_stands_beside_its_table_only_where_there_is_room(show):
    places = """[...document.querySelectorAll('#quality ~ .parts > *')]
      .map(part => part.getBoundingClientRect().top)"""
    wide = show(make_report()).evaluate(places)
    narrow = show(make_report(), 390).evaluate(places)
    assert wide[0] == wide[1]
    assert narrow[0] < narrow[1]


def test_three_paths_have_room(show):
    page = show(make_report(("trained", "generated", "foreign")))
    assert page.evaluate(every(".words td", "n.clientWidth > 135"))
    assert page.evaluate(every(".scroll", "n.scrollWidth <= n.clientWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(show, scheme):
    page = show(make_report(), scheme=scheme)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    low = [(round(ratio, 1), text[:40]) for ratio, text in found if ratio < 4.5]
    assert low == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 380) == (scheme == "light")


def test_a_keyboard_reaches_wide_tables(show):
    page = show(make_report(), 390)
    scrolled = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth)"
        ".map(s => [s.tabIndex, s.getAttribute('aria-label')])"
    )
    assert scrolled
    assert all(index == 0 and label for index, label in scrolled)
    assert page.evaluate(every("table", "n.caption"))
    assert page.evaluate(every("svg", "n.querySelector('title')"))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_print_is_black_on_white_and_whole(show):
    page = show(make_report(), 700, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    style = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    assert page.evaluate(style) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert not page.is_visible("nav")
    assert page.evaluate(every("figure", "getComputedStyle(n).breakInside == 'avoid'"))
    assert page.evaluate(every(".scroll", "n.scrollWidth <= n.clientWidth + 1"))
    assert page.pdf(format="A4").startswith(b"%PDF")
