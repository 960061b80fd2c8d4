"""Tests of documents and records: every format, every kind of bad input."""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from prag_core.corpus.documents import (
    Document,
    document_from_record,
    iter_documents,
    read_documents,
)
from tests.fixtures.paths import DATA

EXPECTED = [Document("Text one.", "One", "1"), Document("Text two.", "Two", "2")]
FORMATS = {
    "a.jsonl": '{"id": "1", "title": "One", "text": "Text one."}\n\n'
    '{"_id": 2, "title": "Two", "text": "Text two."}\n',
    "flashrag.jsonl": '{"id": "1", "contents": "\\"One\\"\\nText one."}\n'
    '{"id": "2", "contents": "Two\\nText two."}\n',
    "list.json": json.dumps(
        [{"id": 1, "title": "One", "text": "Text one."}, {"id": 2, "contents": "Two\nText two."}],
        indent=1,
    ),
    "wrapped.json": json.dumps(
        {
            "documents": [
                {"id": 1, "title": "One", "text": "Text one."},
                {"id": 2, "title": "Two", "contents": "Text two."},
            ]
        }
    ),
    "lines.json": '{"id": 1, "title": "One", "text": "Text one."}\n'
    '{"id": 2, "title": "Two", "text": "Text two."}\n',
    "psgs_w100.tsv": 'id\ttext\ttitle\n1\tText one.\tOne\r\n2\t"Text two."\tTwo\n',
    "titles.tsv": "Title\tText\tid\nOne\tText one.\t1\nTwo\tText two.\t2\n",
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, name, compressed):
    content = FORMATS[name].encode()
    path = write(
        tmp_path / (name + ".gz" * compressed), gzip.compress(content) if compressed else content
    )
    documents = read_documents(path)
    assert documents == EXPECTED
    assert [d.source_id for d in documents] == ["1", "2"]


def test_id_depends_on_title_and_text_only():
    assert Document("t", "x", "1").id == Document("t", "x", "2", {"a": 1}).id
    assert len({Document("t", "x").id, Document("t", "y").id, Document("u", "x").id}) == 3
    assert Document("t", "x").id == "06eb2d059fef8ed4e17f469c375e0e3a"  # b2sum -l 128


def test_quoted_tsv_fields_and_stray_quotes(tmp_path):
    lines = 'id\ttext\ttitle\n7\t"A ""b"" c"\tT\n8\tsaid "so" there\tU\n'
    documents = read_documents(write(tmp_path / "a.tsv", lines))
    assert [d.text for d in documents] == ['A "b" c', 'said "so" there']


def test_further_fields_become_metadata():
    record = {"id": 3, "text": "t", "year": 1999, "metadata": {"source": "wiki"}}
    assert document_from_record(record).metadata == {"year": 1999, "source": "wiki"}
    for extra, expected in (("wiki", {"metadata": "wiki"}), ([1], {"metadata": [1]}), (None, {})):
        assert document_from_record({"text": "t", "metadata": extra}).metadata == expected


def test_text_and_markdown_titles(tmp_path):
    write(tmp_path / "notes.txt", "\ufeffPlain text.\n")
    write(tmp_path / "page.md", "# The title\n\nBody.\n")
    write(tmp_path / "sub" / "bare.md", "Only a body.")
    documents = read_documents(tmp_path)
    assert [(d.title, d.text) for d in documents] == [
        ("notes", "Plain text."),
        ("The title", "Body."),
        ("bare", "Only a body."),
    ]


def test_files_of_one_name_in_several_folders_have_ids_of_their_own(tmp_path):
    for name in ("alpha", "beta"):
        write(tmp_path / name / "README.md", f"# About\n\nOf {name}.")
    whole = [d.source_id for d in read_documents(tmp_path)]
    parts = [d.source_id for n in ("alpha", "beta/README.md") for d in read_documents(tmp_path / n)]
    assert whole == parts == [f"{tmp_path.as_posix()}/{n}/README.md" for n in ("alpha", "beta")]


def test_folder_is_read_in_sorted_order_without_foreign_and_hidden_files(tmp_path):
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "x.jsonl", '{"text": "first"}')
    write(tmp_path / "image.png", b"\x89PNG\0")
    write(tmp_path / ".git" / "c.txt", "hidden")
    assert [d.text for d in read_documents(tmp_path)] == ["first", "second"]


def test_corpus_folder_gives_its_corpus_only(tmp_path):
    write(tmp_path / "corpus.jsonl", '{"id": "1", "text": "passage"}')
    write(tmp_path / "questions.jsonl", '{"id": "q", "question": "Which?"}')
    assert [d.text for d in read_documents(tmp_path)] == ["passage"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\n {"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ("Just a text.\nIn two lines.\n", ["Just a text.\nIn two lines."]),
    ],
)
def test_standard_input(monkeypatch, content, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert [d.text for d in read_documents("-")] == expected


def test_bad_line_on_standard_input_is_numbered(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'\n{"text": "a"}\n{oops\n')))
    with pytest.raises(ValueError, match="standard input, line 3: malformed JSON"):
        read_documents("-")


@pytest.mark.parametrize("cut", [2, 15, -3])
def test_a_damaged_archive_on_standard_input_is_refused(monkeypatch, cut):
    raw = io.BytesIO(gzip.compress(b"some text")[:cut])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    with pytest.raises(ValueError, match="standard input: got a damaged gzip file"):
        read_documents("-")


BAD = {
    "line.jsonl": ('{"text": "good"}\n{"text": "bad"\n', r"line\.jsonl, line 2: malformed JSON"),
    "type.jsonl": ('{"text": "good"}\n[1]\n', r"type\.jsonl, line 2: got a JSON list"),
    "field.jsonl": (
        '{"text": "good"}\n{"question": "q", "answer": "a"}\n',
        r"line 2: got the fields question, answer, expected a string in text or contents",
    ),
    "empty.jsonl": (
        '{"text": "good"}\n{"text": " \\u200b"}\n',
        r"line 2: got an empty document",
    ),
    "surrogate.jsonl": ('{"text": "good"}\n{"text": "\\ud800"}\n', r"line 2: .*surrogates"),
    "bytes.jsonl": (
        b'{"text": "good"}\n{"text": "\xff"}\n',
        r"line 2: got byte 10 that is 0xff \(not UTF-8",
    ),
    "nul.jsonl": (b'{"text": "good"}\n\0\0\n', r"line 2: got byte 0 that is 0x00 \(binary content"),
    "columns.tsv": ("title\ttext\na\tgood\nb\n", r"line 3: got 1 columns, expected 2"),
    "record.json": ('[{"text": "good"}, {"text": 3}]', r"record\.json, record 2: got the fields"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named_or_skipped_and_counted(tmp_path, name):
    content, message = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_documents(path)
    assert "skip_bad" in str(error.value)
    counts = Counter()
    assert [d.text for d in read_documents(path, skip_bad=True, counts=counts)] == ["good"]
    assert counts == {"bad": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\x7fELF\0\0", "binary content"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.md", b" \n", "empty document"),
    ],
)
def test_bad_text_file_in_a_folder_is_named_and_left_out(tmp_path, name, content, message, caplog):
    bad = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_documents(bad)
    write(tmp_path / "good.txt", "good")
    counts = Counter()
    assert [d.text for d in read_documents(tmp_path, counts=counts)] == ["good"]
    assert counts == {"left_out": 1, "unreadable": 1}
    assert name in caplog.text and message in caplog.text


@pytest.mark.parametrize("name", [*BAD, "cut.jsonl.gz", "cp1252.csv"])
def test_a_folder_leaves_a_bad_file_out_whole_and_reads_the_others(tmp_path, name, caplog):
    content, message = BAD.get(name, (b"id,text\n1,good\n2,caf\xe9\n", r"line 3: .*--encoding"))
    if name == "cut.jsonl.gz":
        content, message = gzip.compress(b'{"text": "good"}\n' * 99)[:-9], "damaged gzip file"
    write(tmp_path / name, content)
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "z.txt", "last")
    counts = Counter()
    assert [d.text for d in read_documents(tmp_path, counts=counts)] == ["first", "last"]
    assert counts == {"left_out": 1, "unreadable": 1}
    (warning,) = caplog.messages
    assert name in warning and re.search(message, warning)
    if name in BAD:  # a bad record alone, where that is asked for
        counts = Counter()
        texts = [d.text for d in read_documents(tmp_path, skip_bad=True, counts=counts)]
        assert texts == ["first", "good", "last"] and counts == {"bad": 1}


def test_what_may_not_be_read_stops_no_folder(tmp_path, monkeypatch, caplog):
    for name in ("a.txt", "closed.txt", "no_entry/b.txt", "no_files/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "good")
    (tmp_path / "link.txt").symlink_to("no_files/c.txt")
    for name, mode in (("closed.txt", 0), ("no_entry", 0), ("no_files", 0o444), (".", 0o755)):
        (tmp_path / name).chmod(mode)
    monkeypatch.chdir(tmp_path)  # those above may belong to root alone
    counts, user = Counter(), os.geteuid()
    if user == 0:
        os.seteuid(65534)  # permissions do not stop root
    try:
        assert [d.text for d in read_documents(".", counts=counts)] == ["good"]
        with pytest.raises(OSError, match="denied"):
            read_documents("closed.txt")
    finally:
        os.seteuid(user)
        for name in ("no_entry", "no_files"):
            (tmp_path / name).chmod(0o755)
    assert counts == {"left_out": 4, "unreadable": 4}
    for name in ("closed.txt", "no_entry", "no_files/c.txt", "link.txt"):
        assert name in caplog.text


def test_a_failing_disk_is_no_file_to_be_left_out(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "good")

    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr("prag_core.corpus.records.open_file", fail)
    with pytest.raises(OSError, match="Too many"):
        list(iter_documents(path.parent))


def test_pretty_printed_json_names_the_line(tmp_path):
    path = write(tmp_path / "a.json", '[\n {"text": "a"},\n {"text" "b"}\n]')
    with pytest.raises(ValueError, match=r"a\.json, line 3: malformed JSON"):
        read_documents(path)


def test_duplicates_are_kept_once_and_counted(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", '{"id": 1, "text": "same"}\n{"id": 2, "text": "same"}\n')
    counts = Counter()
    assert [d.source_id for d in read_documents(path, counts=counts)] == ["1"]
    assert counts == {"duplicate": 1}
    assert "1 duplicate" in caplog.text
    assert len(list(iter_documents(path))) == 2


def test_empty_corpus(tmp_path):
    with pytest.raises(ValueError, match=r"got no documents in .*expected at least one"):
        read_documents(write(tmp_path / "a.jsonl", "\n"))
    with pytest.raises(ValueError, match="got no readable file"):
        read_documents(write(tmp_path / "sub" / "x.png", "").parent)


def test_wrong_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist, expected a file or folder"):
        read_documents(tmp_path / "nowhere.jsonl")
    with pytest.raises(
        ValueError, match="expected a file that ends in jsonl, ndjson, json, tsv, csv"
    ):
        read_documents(write(tmp_path / "a.xyz", "x"))


def test_truncated_gzip(tmp_path):
    lines = gzip.compress("".join(f'{{"text": "{i}"}}\n' for i in range(9999)).encode())
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_documents(write(tmp_path / "a.jsonl.gz", lines[: len(lines) // 2]))


def test_iteration_is_lazy(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\nbroken\n')
    documents = iter_documents(path)
    assert next(documents).text == "one"
    with pytest.raises(ValueError, match="line 2"):
        next(documents)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
@pytest.mark.parametrize(("name", "number"), [("squad_dev", 2067), ("popqa_250", 380)])
def test_real_corpora(name, number):
    assert sum(1 for _ in iter_documents(DATA / name)) == number


@pytest.mark.parametrize("fields", [{"\ud800": 1}, {"id": "\ud800"}, {"by": {"a": ["\ud800"]}}])
def test_half_a_character_beside_the_text_is_refused(fields):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        document_from_record({"text": "Oss is old.", **fields})


@pytest.mark.parametrize(
    ("title", "expected"), [(1984, "1984"), (math.nan, ""), (None, ""), (2.5, "2.5"), ("", "")]
)
def test_a_title_may_be_a_number_or_missing(title, expected):
    assert document_from_record({"title": title, "text": "A novel."}).title == expected


def test_a_title_of_another_type_is_named():
    with pytest.raises(ValueError, match="got the fields title, text, expected a string in title"):
        document_from_record({"title": ["A"], "text": "A novel."})


def test_columns_of_one_name_are_refused(tmp_path):
    write(tmp_path / "a.csv", "title,text,Text\nA,one,two\n")
    with pytest.raises(ValueError, match=r"got columns \['text'\] twice in .*a.csv, line 1"):
        read_documents(tmp_path / "a.csv")


def test_columns_without_a_name_are_left_out(tmp_path):
    (document,) = read_documents(write(tmp_path / "a.csv", ",text,year\n0,Oss is old.,1931\n"))
    assert document.metadata == {"year": "1931"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_of_another_encoding(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"The cafe has a mill.")
    (document,) = read_documents(tmp_path)
    assert document.title == "caf\\xe9" and document.source_id.endswith("caf\\xe9.txt")
    assert document.id and document.text == "The cafe has a mill."
