"""Any bytes in a file of any kind: documents, or an error for the user; no record goes unsaid.

PRAG_EXAMPLES sets their number (the default is small).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prag_core.corpus.characters import is_blank
from prag_core.corpus.documents import KINDS, iter_documents, read_documents
from prag_core.corpus.question_sets import load_question_set
from tests.fixtures.document_files import docx, paragraph, pdf
from tests.fixtures.examples import examples

ERRORS = (ValueError, FileNotFoundError, ImportError)
RECORDS = [{"id": "a", "title": "T", "text": "Oss is old."}, {"contents": '"U"\nTarn', "n": 1}]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
TABLE = 'id,title,text\n1,T,"Oss, old"\n2,U,"Two\nlines"\n'
PAGE = b"<!DOCTYPE html><title>T</title><meta charset=utf-8><table><tr><td>Oss<td>1</table><pre>a"
VALID = {
    "jsonl": LINES, "ndjson": LINES, "json": json.dumps(RECORDS, indent=1).encode(),
    "csv": TABLE.encode(), "tsv": b"id\ttitle\ttext\n1\tT\tOss\n2\t\"U\"\tTarn\n",
    "md": b"---\ntitle: T\nyear: 1931-01-01\n---\n# T\n\nOss `is` old.", "txt": "Zürich".encode(),
    "html": PAGE, "pdf": pdf("The mill", "On Mills"), "docx": docx(paragraph("Oss is old.")),
}  # fmt: skip
QUESTIONS = [
    {"id": "a", "question": "Q?", "answers": {"text": ["x"]}, "title": "T", "context": "C."},
    {"_id": "b", "question": "Q?", "answer": "x", "context": [["T", ["A.", "B."]]],
     "supporting_facts": [["T", 0]], "type": "bridge", "level": "easy"},
    {"data": [{"title": "T", "paragraphs": [{"context": "C.", "qas": [
        {"id": "c", "question": "Q?", "answers": [{"text": "x", "answer_start": 0}]}]}]}]},
    {"id": "d", "question": "Q?", "possible_answers": "[\"x\"]", "metadata": {"a": 1}},
]  # fmt: skip
PIECES = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xfc", b'"', b"[" * 9000, b"{", b"]}", b"\n", b"\r",
    b"\t", b",", b";", b"NaN", b"\\ud800", b"\x1b$B", b"---\n", b"&a [*a]", b"<div>" * 50, b"<pre>",
    b"<meta charset=x>", b"<!--", b"<![CDATA[", b"<![a>", b"&#0;&#xd800;", b"(", b"endobj",
    b">>", b"1e999",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=4)),
    max_size=4,
)


def mutated(content: bytes, edits) -> bytes:
    """The content with pieces put in the place of some of its bytes."""
    for where, length, piece in edits:
        place = int(where * len(content))
        content = content[:place] + piece + content[place + length :]
    return content


@st.composite
def files(draw) -> tuple[str, bytes]:
    """A kind, and bytes that nearly are of it."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    valid = VALID.get(kind) or VALID["html" if "htm" in kind else "md" if "m" in kind else "txt"]
    if draw(st.integers(0, 5)) == 0:
        content = draw(st.binary(max_size=200))
    else:
        content = mutated(valid, draw(EDITS))
    if draw(st.integers(0, 5)) == 0:
        content = mutated(gzip.compress(content, mtime=0), draw(EDITS))
    return kind, content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@settings(max_examples=examples(150), deadline=None)
@given(file=files(), skip_bad=st.booleans(), encoding=st.sampled_from(["", "cp1252", "utf-16-le"]))
def test_any_file_is_read_or_refused(folder, file, skip_bad, encoding):
    kind, content = file
    path = folder / f"a.{kind}"
    path.write_bytes(content)
    try:
        documents = read_documents(path, skip_bad, encoding=encoding)
    except ERRORS as error:
        assert path.name in str(error)
    else:
        for document in documents:  # as a store takes them
            assert document.text.strip() and document.id
            json.dumps(asdict(document), ensure_ascii=False, allow_nan=False).encode()


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3),
)
RECORD = st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "title", "text"], VALUE | TEXT))
BROKEN = st.sampled_from(
    [b"{", b'{"text": NaN}', b'{"text": "\xfc"}', b'{"text": "\\ud800"}', b"3"]
)
LINE = RECORD.map(lambda record: json.dumps(record).encode()) | BROKEN


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(LINE, min_size=1, max_size=6))
def test_every_line_is_a_document_or_counted(folder, lines):
    path, counts = folder / "lines.jsonl", Counter()
    path.write_bytes(b"\n".join(lines))
    documents = list(iter_documents(path, skip_bad=True, counts=counts))
    assert len(documents) + counts["bad"] == len(lines)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT | TEXT.map("\n".join)), min_size=1, max_size=6),
    st.sampled_from([("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")]),
)
def test_every_row_is_a_document_or_counted(folder, rows, form):
    kind, delimiter = form
    if kind == "tsv":  # a line a record
        rows = [[" ".join(field.split()) for field in row] for row in rows]
    rows = [row for row in rows if "".join(row).strip()]  # blank rows are none
    written, counts, path = io.StringIO(), Counter(), folder / f"rows.{kind}"
    csv.writer(written, delimiter=delimiter).writerows([("title", "text"), *rows])
    path.write_bytes(written.getvalue().encode())
    documents = list(iter_documents(path, skip_bad=True, counts=counts))
    assert len(documents) + counts["bad"] == len(rows)
    texts = [text.strip() for _, text in rows if not is_blank(text)]
    assert [document.text for document in documents] == texts


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from(QUESTIONS),
    EDITS,
    st.dictionaries(
        st.sampled_from(["context", "supporting_facts", "title", "gold_ids", "metadata", "answer"]),
        VALUE | st.just([["T", [1]]]) | st.just([[]]) | st.just({"title": "T", "sentences": [1]}),
        max_size=2,
    ),
)
def test_any_question_is_read_or_refused(folder, record, edits, changes):
    path = folder / "questions.jsonl"
    content = json.dumps({**record, **changes}).encode()
    path.write_bytes(mutated(content, edits) + b"\n" + json.dumps(QUESTIONS[0]).encode())
    for skip_bad in (False, True):
        try:
            load_question_set(path, skip_bad=skip_bad)
        except ERRORS as error:
            assert str(error)
