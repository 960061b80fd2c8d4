"""Tests of files that hold one document each, of tables, of encodings and of folders."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from prag_core.corpus import readers
from prag_core.corpus.documents import Document, as_documents, read_documents
from prag_core.corpus.readers import read_docx, read_html, read_markdown
from tests.fixtures.document_files import docx, paragraph, pdf

PAGE = """<!DOCTYPE html><html><head><title>The
 Mill &amp; Co</title><style>p{}</style><body><nav>Home</nav><h1>Mill</h1><p>O<b>s</b>s is
old.<p>Second<br>line<script>var a</script><table><tr><th>Name<th>Year<tr><td>A<td>1931</table>"""
PAGE_TEXT = "Mill\nOss is old.\nSecond\nline\nName | Year\nA | 1931"


ROW = f"<w:tr><w:tc>{paragraph('A')}</w:tc><w:tc>{paragraph('1931')}</w:tc></w:tr>"
BODY = paragraph("Oss is old.") + f"<w:tbl>{ROW}</w:tbl>"
FILES = {
    "a.html": (PAGE.encode(), "The Mill & Co", PAGE_TEXT),
    "B.HTM": ("<h1>Übersicht</h1>Tarn".encode(), "Übersicht", "Übersicht\nTarn"),
    "sjis.html": ('<meta charset="shift_jis">北京'.encode("cp932"), "sjis", "北京"),
    "iso.html": ('<meta charset="iso-2022-jp">北京'.encode("iso2022_jp"), "iso", "北京"),
    "pre.html": (b"<pre>one\n<!-- not\nthis -->two</pre>", "pre", "one\ntwo"),
    "r.pdf": (pdf("The mill of Oss", "On Mills"), "On Mills", "The mill of Oss"),
    "s.PDF": (pdf("The mill", "Microsoft Word - s.doc"), "s", "The mill"),
    "owner.pdf": (pdf("The mill", password=""), "owner", "The mill"),
    "w.docx": (docx(BODY), "The Report", "Oss is old.\nA | 1931"),
    "m.markdown": (b"---\ntitle: Of Oss\nyear: 1931\n---\nBody.", "Of Oss", "Body."),
    "n.md": (b"Title\n=====\r\n\r\nBody.", "Title", "Body."),
    "u16.txt": ("\ufeffZürich 北京".encode("utf-16-le"), "u16", "Zürich 北京"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_document(tmp_path, name, compressed):
    content, title, text = FILES[name]
    path = tmp_path / (name + ".gz" * compressed)
    path.write_bytes(gzip.compress(content) if compressed else content)
    [document] = read_documents(path)
    assert (document.title, document.text) == (title, text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", pdf(""), "1 pages without text .*ocrmypdf"),
        ("a.pdf", pdf("x", password="secret"), "encrypted PDF.*qpdf"),
        ("a.pdf", b"%PDF-1.4 nothing", "broken PDF"),
        ("a.docx", b"PK\3\4 nothing", "broken DOCX"),
        ("a.html", b"<p>Oss<![CDA x>", "broken HTML"),
        ("a.docx", b"\xd0\xcf\x11\xe0" + bytes(99), "encrypted or old Word file"),
        ("a.html", b"<script>x</script>", "empty document"),
        ("a.txt", "\u200b\ufeff".encode(), "empty document"),
        ("a.txt", "Zürich".encode("cp1252"), r"byte 1 that is 0xfc .*--encoding"),
        ("a.txt", "Zürich".encode("utf-16-le"), "byte 1 that is 0x00 .*UTF-16"),
        ("a.txt", "北京".encode("iso2022_jp"), "ISO-2022"),
        ("a.csv", "text\nZürich\n".encode("cp1252"), r"line 2: got byte 1 that is 0xfc"),
        ("a.csv", 'text\n"never closed\n', "line 2: malformed CSV"),
        ("a.csv", 'text\na\n"never\nclosed\n', "lines 3 to 4: got a quote mark that is never"),
        ("a.jsonl", '{"text": "a", "n": NaN}', "line 1: got NaN"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b", "text": "c"}',
            "line 2: got the key 'text' twice",
        ),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"},', "line 2: malformed JSON"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read_documents(path)


def test_a_large_archive_is_refused(monkeypatch):
    monkeypatch.setattr(readers, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="bytes unpacked, expected less than 10"):
        read_docx(docx(BODY))


def test_aliases_of_front_matter_are_not_unfolded():
    text = "---\na: &a [x, x]\nb: [*a, *a]\n---\nBody"
    assert read_markdown(text.encode()).text == text


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bs4.dammit", None)
    with pytest.raises(ValueError, match=r"pip install 'prag\[documents\]'"):
        read_html(b"<p>a")


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "gb18030", "utf-16-le", "iso2022_jp"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.md", "a.html"])
def test_a_named_encoding_is_read_and_utf8_beside_it(tmp_path, name, encoding):
    text = "Zürich" if encoding == "cp1252" else "北京"
    contents = {"jsonl": json.dumps({"text": text}, ensure_ascii=False)}
    contents |= {"csv": f"id,text\n1,{text}", "tsv": f"id\ttext\n1\t{text}"}
    content = contents.get(name.split(".")[1], text)
    (tmp_path / name).write_bytes(content.encode(encoding))
    (tmp_path / "b.txt").write_text("Łódź 北京", "utf-8")
    texts = [d.text for d in read_documents(tmp_path, encoding=encoding)]
    assert texts == [text, "Łódź 北京"]
    with pytest.raises(ValueError, match="got encoding 'x', expected one that Python knows"):
        read_documents(tmp_path, encoding="x")


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.csv", 'title,text\nT,"One, ""two""\nlines"\n', [Document('One, "two"\nlines', "T")]),
        ("a.csv", "sep=;\nTitle;Text\nT;a, b\n", [Document("a, b", "T")]),
        ("a.csv", "town,year\nOss,1931\n", [Document("town: Oss\nyear: 1931")]),
        ("a.csv", ",town,year\n0,Oss,1931\n", [Document("town: Oss\nyear: 1931")]),
        ("a.tsv", 'id\ttext\n1\t"Open\n2\t"A" is\n', [Document('"Open'), Document('"A" is')]),
        ("a.tsv", "id\ttext\n1\t" + "x" * 140_000 + "\n", [Document("x" * 140_000)]),
        ("a.csv", "id,text\n1," + "x" * 140_000 + "\n", [Document("x" * 140_000)]),
        ("a.jsonl", '[\n{"text": "a"},\n"b"\n]', [Document("a"), Document("b")]),
    ],
)  # fmt: skip
def test_tables(tmp_path, name, content, documents):
    (tmp_path / name).write_text(content, "utf-8")
    read = read_documents(tmp_path / name)
    assert [(d.title, d.text) for d in read] == [(d.title, d.text) for d in documents]


def test_a_folder_names_what_it_leaves_out(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.pdf").write_bytes(pdf(""))
    (tmp_path / "c.xyz").write_text("x")
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    counts = Counter()
    assert [d.text for d in read_documents(tmp_path, counts=counts)] == ["good"]
    assert counts == {"left_out": 4, "unreadable": 2}
    for words in ("b.pdf", "c.xyz (unknown kind)", "round (a link", "gone.txt (a broken link)"):
        assert words in caplog.text
    assert "hidden" not in caplog.text


def test_a_folder_of_unreadable_files_is_an_error(tmp_path):
    (tmp_path / "b.pdf").write_bytes(pdf(""))
    with pytest.raises(ValueError, match="1 files left out"):
        read_documents(tmp_path)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b'[{"title":"A","text":"one"},{"title":"B","text":"two"}]\n', ["one", "two"]),
        (b'[\n {"text": "one"},\n {"text": "two"}\n]', ["one", "two"]),
        (b'{\n "text": "one"\n}', ["one"]),
        (gzip.compress(b'{"text": "one"}', mtime=0), ["one"]),
        ('\ufeff[{"text": "Zürich"}]'.encode("utf-16"), ["Zürich"]),
        (b"[1] A note", ["[1] A note"]),
        (b"{{Infobox}} A note", ["{{Infobox}} A note"]),
        (PAGE.encode(), [PAGE_TEXT]),
        (f"\ufeff<!DOCTYPE HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>\n{PAGE}".encode(), [PAGE_TEXT]),
        (f'<?xml version="1.0"?>\n<!-- x -->{PAGE.upper()}'.encode(), [PAGE_TEXT.upper()]),
        (pdf("The mill"), ["The mill"]),
    ],
)
def test_standard_input_is_read_as_a_file(monkeypatch, content, texts):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [d.text for d in read_documents("-")] == texts


def test_documents_and_questions_in_any_shape():
    one = [Document("北京是中国的首都。")]
    for given in (
        "北京是中国的首都。",
        one[0],
        {"text": "北京是中国的首都。"},
        one,
        (d for d in one),
    ):
        assert as_documents(given) == one
    for wrong in (None, 3, b"a", Path("a.txt"), [one[0], None], [b"a"], io.StringIO("a")):
        with pytest.raises(ValueError, match=r"got a \w+.*, expected"):
            as_documents(wrong)
