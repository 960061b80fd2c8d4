"""Readers: the bytes of one text, Markdown, HTML, PDF or DOCX file go in, its `Content` comes out.

Each reader takes (bytes, encoding) and raises ValueError for what it cannot read. The text is left
as it stands; only line ends are made alike. Which libraries they need is in README.md.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import yaml

from prag_core.corpus.encodings import decode

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

HEADING = re.compile(r"# +(.+?)(?: +#+)? *(?:\n|$)|(.+)\n=+ *(?:\n|$)")  # `# Title`, or underlined
FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)
# Titles that programs put into PDF and DOCX files by themselves: names of files and programs.
NO_TITLE = re.compile(
    r"(untitled|document|title|word document|powerpoint presentation|microsoft word\b.*|"
    r".*\.(docx?|pdf|tex|dvi|indd|qxd|rtf|odt|pptx?|xlsx?|html?|txt|p65|pub)|\W*|\d+)",
    re.IGNORECASE,
)
MOST_BYTES = 2**28  # of an unpacked DOCX: a small archive may hold much more
NO_TEXT = "template script style noscript nav iframe svg object select textarea button title"
BLOCKS = """
    address article aside blockquote body br caption center dd details dialog div dl dt fieldset
    figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main ol p pre
    section summary table tbody tfoot thead tr ul
"""
BREAK = "\0"  # a line break while HTML is read: `decode` lets none through
# What browsers read under these names (WHATWG's encoding standard), where Python reads less.
WIDER = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252"}
WIDER |= {"ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
WIDER |= {"shift-jis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What a file says: its text, its title if it has one, and further fields."""

    text: str
    title: str = ""
    metadata: dict = field(default_factory=dict)


def read_text(raw: bytes, encoding: str = "") -> Content:
    """Read plain text."""
    text = decode(raw, encoding).removeprefix("\ufeff")
    return Content(text.replace("\r\n", "\n").replace("\r", "\n").strip())


def read_markdown(raw: bytes, encoding: str = "") -> Content:
    """Read Markdown: front matter is metadata; a heading that begins the text is its title."""
    text, fields = _front_matter(read_text(raw, encoding).text)
    heading = HEADING.match(text)
    first = (heading[1] or heading[2]).strip() if heading else ""
    title = fields.pop("title", None)
    title = str(title).strip() if isinstance(title, (str, int, float)) else ""
    if heading and title in ("", first):  # a heading of other words stays in the text
        return Content(text[heading.end() :].strip(), first, fields)
    # A comment in the first block of code looks like a heading.
    later = re.search(r"^# +(.+?)(?: +#+)? *$", re.split("```|~~~", text)[0], re.MULTILINE)
    return Content(text, title or (later[1] if later else ""), fields)


def _front_matter(text: str) -> tuple[str, dict]:
    """Split a text into its body and the fields before it; all is body where these are no YAML."""
    block = FRONT_MATTER.match(text)
    if not block:
        return text, {}
    try:
        # No aliases: a few lines of them unfold to gigabytes.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(block[1] or "")):
            return text, {}
        # As JSON has it: a store keeps nothing else; dates become strings.
        as_json = json.dumps(yaml.safe_load(block[1] or ""), default=str, allow_nan=False)
        fields = json.loads(as_json)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text, {}
    return (text[block.end() :].strip(), fields) if isinstance(fields, Mapping) else (text, {})


def read_html(raw: bytes, encoding: str = "") -> Content:
    """Read a page, in the encoding that it names: its title is <title>, else the first <h1>."""
    dammit = _library("bs4.dammit", "HTML").EncodingDetector
    named = (dammit.find_declared_encoding(raw, is_html=True) or "").lower()
    if named.startswith(("utf-16", "utf-32")):  # it cannot be, or the name would not be readable
        named = ""
    try:
        text = decode(raw, encoding or WIDER.get(named, named))
    except LookupError as error:
        raise ValueError(f"got a page in {named!r}, expected UTF-8: save it as UTF-8") from error
    return _page_content(text)


def _page_content(page: str) -> Content:
    with _broken("HTML", {}):  # "<![CDA", say, which the parser does not go on from
        soup = _library("bs4", "HTML").BeautifulSoup(page, "html.parser")
    title = soup.title.get_text() if soup.title else ""
    for tag in soup.find_all(NO_TEXT.split()) + soup.find_all(attrs={"role": "navigation"}):
        tag.extract()
    if not title.strip() and soup.h1:
        title = soup.h1.get_text(" ")
    _mark_lines(soup)
    lines = (" ".join(line.split()) for line in soup.get_text().split(BREAK))
    return Content("\n".join(filter(None, lines)), " ".join(title.replace(BREAK, "").split()))


def _mark_lines(soup: BeautifulSoup) -> None:
    """Put marks where a browser shows a new line, and bars between the cells of a row."""
    for tag in soup.find_all("pre"):
        for string in list(tag.strings):  # without comments, which a mark would make text
            string.replace_with(string.replace("\n", BREAK))
    for tag in soup.find_all(BLOCKS.split()):
        # A paragraph in a cell does not divide its row.
        mark = " " if tag.name in ("p", "div") and tag.find_parent(["td", "th"]) else BREAK
        tag.insert_before(mark)
        tag.insert_after(mark)
    for cell in soup.find_all(["td", "th"]):
        # By the row, not by siblings: the end of a cell may be left out.
        before, row = cell.find_previous(["td", "th"]), cell.find_parent("tr")
        if before is not None and row is not None and before.find_parent("tr") is row:
            cell.insert_before(" | ")


def read_pdf(raw: bytes, encoding: str = "") -> Content:
    """Read the text of a PDF's pages; its title is that of its properties, where it has one.

    Raises:
        ValueError: encrypted, broken, or without text, as scans are.
    """
    pypdf = _library("pypdf", "PDF")
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every small irregularity
    locked = "got an encrypted PDF, expected one without password: save it without (qpdf --decrypt)"
    # It lacks a library for newer ciphers, which `cryptography` would be.
    with _broken("PDF", {pypdf.errors.DependencyError: locked}):
        reader = pypdf.PdfReader(io.BytesIO(raw))
        # Many are encrypted with no password, to forbid printing.
        opened = not reader.is_encrypted or bool(reader.decrypt(""))
        pages = [page.extract_text() for page in reader.pages] if opened else []
        title = (reader.metadata.title if opened and reader.metadata else "") or ""
    if not opened:
        raise ValueError(locked)
    # A lone half of a surrogate pair, or NUL: what a damaged font table leaves of a character.
    pages = [re.sub(r"[\0\ud800-\udfff]", "\ufffd", page).strip() for page in pages]
    empty = [number for number, page in enumerate(pages, 1) if not page]
    if len(empty) == len(pages):
        raise ValueError(
            f"got a PDF of {len(pages)} pages without text (a scan?), expected text: recognise it "
            "first (ocrmypdf)"
        )
    if empty:
        logger.warning("a PDF has no text on %d of %d pages: scans?", len(empty), len(pages))
    text = "\n\n".join(filter(None, pages))
    # A word that is divided at the end of a line is one word again.
    text = re.sub(r"(?<=[^\W\d_])[-\u00ad]\n(?=[^\W\d_A-Z])", "", text)
    return Content(text, _title(title))


def read_docx(raw: bytes, encoding: str = "") -> Content:
    """Read a Word document, tables and notes included; its title is that of its properties.

    Raises:
        ValueError: encrypted, an old .doc, broken, or too large when unpacked.
    """
    mammoth = _library("mammoth", "DOCX")
    if raw.startswith(b"\xd0\xcf\x11\xe0"):  # the container of .doc and of encrypted .docx files
        raise ValueError("got an encrypted or old Word file, expected DOCX: save it as one")
    with _broken("DOCX", {}):
        title, size = _properties(raw)
        page = ""
        if size < MOST_BYTES:
            page = mammoth.convert_to_html(
                io.BytesIO(raw),
                style_map="p[style-name='Title'] => h1:fresh",
                convert_image=mammoth.images.img_element(lambda image: {}),  # no pictures as text
            ).value
    if size >= MOST_BYTES:
        raise ValueError(f"got {size:,} bytes unpacked, expected less than {MOST_BYTES:,}: cut it")
    content = _page_content(page)
    return replace(content, title=_title(title) or content.title)


def _properties(raw: bytes) -> tuple[str, int]:
    """Return the title in a DOCX file's properties and the unpacked size of its XML."""
    name = "docProps/core.xml"
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        size = sum(info.file_size for info in archive.infolist() if ".xml" in info.filename)
        if name not in archive.namelist() or size >= MOST_BYTES:
            return "", size
        core = ElementTree.fromstring(archive.read(name))
    return core.findtext("{http://purl.org/dc/elements/1.1/}title") or "", size


READERS: dict[str, Callable[[bytes, str], Content]] = {
    "txt": read_text, "text": read_text, "md": read_markdown, "markdown": read_markdown,
    "html": read_html, "htm": read_html, "xhtml": read_html, "pdf": read_pdf, "docx": read_docx,
}  # fmt: skip


def _title(title: str) -> str:
    """Return a title of a file's properties, unless a program put it there."""
    title = " ".join(title.split())
    return "" if NO_TITLE.fullmatch(title) else title


def _library(name: str, kind: str) -> ModuleType:
    """Import a library of the extra `documents`, or say how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"got {kind} without the library {name.split('.')[0]} that reads it: "
            "pip install 'prag[documents]'"
        ) from error


@contextmanager
def _broken(kind: str, known: Mapping[type[Exception], str]) -> Iterator[None]:
    """Turn what a library raises into a ValueError."""
    try:
        yield
    except Exception as error:  # of whatever kind a broken file leads the library to
        reason = " ".join(str(error).split())
        default = f"got a broken {kind} ({reason}), expected a whole one: fetch or save it again"
        raise ValueError(known.get(type(error), default)) from error
