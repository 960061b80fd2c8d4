"""The page in a real browser (Chromium, driven by Playwright) over a real server."""

from __future__ import annotations

import re
import shutil

import pytest

from prag_core.pipeline.answers import AnswerOptions
from tests.fixtures.services import documents, running_server

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install it")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def server(tiny_base, tmp_path):
    with running_server(tiny_base, tmp_path / "store") as made:
        yield made


@pytest.fixture(params=[1280, 390])
def page(request, browser, server):
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(server[0])
    yield opened
    assert problems == []
    wide = opened.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide, "the page scrolls sideways"
    opened.close()


def answers(page) -> dict[str, str]:
    """Ask what is in the question field; the facts under every mode's answer."""
    page.click("#ask")
    page.wait_for_selector("#answers article:nth-child(5)")
    page.wait_for_selector("#ask:enabled")
    rows = page.query_selector_all("#answers article")
    return {
        r.query_selector("h3").inner_text(): r.query_selector(".facts").inner_text() for r in rows
    }


def test_a_document_is_added_asked_switched_off_and_removed(page, server):
    assert page.is_visible("text=No documents yet.")
    page.click("#example")
    page.click("#add")
    page.wait_for_selector(".document svg rect")
    assert "generated in" in page.inner_text(".document .facts")
    found = answers(page)
    assert "tokens, from Tarnmoor observatory" in found["Generated adapter"]
    assert "from" not in found["Closed book"]
    assert found["Trained adapter"] == "no document is trained yet: press Train"
    page.uncheck(".document input")
    assert answers(page)["Generated adapter"] == "no document is switched on"
    page.check(".document input")
    page.click("text=Train")
    page.wait_for_selector(".document .facts:has-text('trained in')")
    assert "from Tarnmoor observatory" in answers(page)["Trained adapter"]
    page.click("text=Remove")
    page.wait_for_selector("text=No documents yet.")
    assert server[1].list(9) == []


def test_files_and_what_is_there_already(page, server, tmp_path):
    server[1].add(documents(1))
    page.reload()
    page.wait_for_selector(".document")
    file = tmp_path / "notes.jsonl"
    file.write_text('{"title": "Mill", "text": "The mill stands."}\n')
    page.set_input_files("#file", file)
    page.wait_for_selector("text=Mill")
    assert len(page.query_selector_all(".document")) == 2
    file.write_text("{")
    page.set_input_files("#file", file)
    page.wait_for_selector("#error:not([hidden])")
    assert "notes.jsonl" in page.inner_text("#error")


def test_what_went_elsewhere_is_asked_about_no_more(page, server):
    first, _ = server[1].add(documents(2))
    page.reload()
    page.wait_for_selector(".document >> nth=1")
    server[1].remove(first)
    page.fill("#question", "What are P0 and P1?")
    assert "from P1" in answers(page)["Generated adapter"]
    assert page.locator(".document").count() == 1 and not page.query_selector("article.failed")


def test_documents_that_are_not_listed_are_asked_about_too(page, server):
    server[1].add(documents(60))
    page.reload()
    page.wait_for_selector(".document >> nth=49")
    listed = [d.title for d, _ in server[1].list(60)]
    page.fill("#question", f"What is {listed[59]}?")
    urls = []
    page.on("request", lambda request: urls.append(request.url))
    assert answers(page)["Generated adapter"].endswith(f"from {listed[59]}")
    page.uncheck(".document input >> nth=0")
    assert answers(page)["Generated adapter"].endswith(f"from {listed[59]}")
    page.fill("#question", f"What is {listed[0]}?")
    assert not answers(page)["Generated adapter"].endswith(f"from {listed[0]}")
    assert not any(re.search(r"/v1/documents/\w+$", url) for url in urls)  # no text is sent


def test_the_trained_column_searches_what_is_trained(page, server):
    server[1].add(documents(2))
    page.reload()
    page.wait_for_selector(".document >> nth=1")
    page.locator(".document", has_text="P1").locator(".train").click()
    page.wait_for_selector(".document .facts:has-text('trained in')")
    page.fill("#question", "What are P0 and P1?")
    page.fill("#k", "2")
    found = answers(page)
    assert found["Trained adapter"].endswith("from P1")
    assert {"P0", "P1"} == set(found["Generated adapter"].rpartition("from ")[2].split(", "))
    assert not page.query_selector("article.failed")


def test_a_training_that_cannot_be_followed_can_be_started_again(page, server):
    server[1].add(documents(1))
    page.reload()
    page.wait_for_selector(".document")
    page.route("**/v1/jobs/*", lambda route: route.abort())
    page.click(".train")
    page.wait_for_selector("text=The server does not answer")
    assert page.is_enabled(".train") and page.is_hidden(".document progress")


def test_by_keyboard_alone(page):
    page.focus("#title")
    page.keyboard.type("Ada")
    page.keyboard.press("Tab")
    page.keyboard.type("<b>Ada</b> lives in Tarn.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".document")
    page.focus("#question")
    page.keyboard.type("Where is Ada?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers article:nth-child(5)")
    page.wait_for_selector("#ask:enabled")
    page.focus(".remove")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No documents yet.")


def test_errors_are_shown(page, server):
    page.fill("#text", "a" * 50_001)
    page.click("#add")
    page.wait_for_selector("#error:not([hidden])")
    assert "got a document of 50001 characters" in page.inner_text("#error")
    page.fill("#text", "Ada lives in Tarn.")
    page.route("**/v1/documents", lambda route: route.abort())
    page.click("#add")
    page.wait_for_selector("text=The server does not answer")
    assert page.input_value("#text") == "Ada lives in Tarn."  # nothing typed is lost


def test_a_key_is_asked_for(browser, tiny_base, tmp_path):
    with running_server(tiny_base, tmp_path, api_key="secret") as (address, service):
        service.add(documents(1))
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "secret")
        page.click("text=Use key")
        page.wait_for_selector(".document")
        page.close()


def test_notes_of_documents_and_answers_are_shown(page, server):
    page.fill("#title", "Long")
    page.fill("#text", "word " * (2 * server[1].rag.parametrizer.max_tokens))
    page.click("#add")
    page.wait_for_selector(".document svg rect")
    assert "Long: got a text of" in page.inner_text("#status")
    server[1].rag.options = AnswerOptions(abstain=True)
    page.fill("#question", "Zebra?")
    answers(page)
    notes = [note.inner_text() for note in page.query_selector_all("#answers .notes")]
    assert notes[0] == "" and notes[2].startswith("abstained: ")


def test_a_failed_upload_shows_what_it_left(page, server):
    def fail(route) -> None:
        server[1].add(documents(1))
        route.fulfill(status=507, json={"error": {"message": "got no room"}})

    page.route("**/v1/documents/upload", fail)
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"})
    page.wait_for_selector(".document:has-text('P0')")
    page.wait_for_selector("#error:has-text('got no room')")
