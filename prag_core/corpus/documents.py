"""Documents: files of many kinds go in, `Document` records come out (README.md has the table).

A file that is named is read whole or refused: a bad record (malformed line, empty document) or
file raises ValueError that names file and line. With `skip_bad` bad records are left out instead
and counted under "bad" in `counts`. Of a folder, the files that cannot be read so, and those of
other kinds, are left out, named with the reason in a warning, and counted under "left_out"; the
others are read.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from prag_core.corpus import records
from prag_core.corpus.characters import is_blank, seen
from prag_core.corpus.encodings import check_encoding, marked_encoding
from prag_core.corpus.readers import READERS
from prag_core.corpus.records import Reject, suffix
from prag_core.files import FAILURES, sentence

# By suffix: the form of their records. The kinds of READERS hold one document a file.
RECORD_FORMS = {"jsonl": "jsonl", "ndjson": "jsonl", "json": "", "tsv": "tsv", "csv": "csv"}
KINDS = (*RECORD_FORMS, *READERS)
NAMED = 10  # files left out that one warning names
# On standard input nothing but the content tells JSON from text; "[1] A note" is text.
JSON_START = re.compile(r"\ufeff?\s*(\{\s*[\"}]|\[\s*[\[{\"\]])")
SIGNS = {b"%PDF-": "pdf", b"PK\3\4": "docx"}
HTML_START = re.compile(
    r"\ufeff?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+)?html\b", re.IGNORECASE | re.DOTALL
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One retrievable text.

    Attributes:
        text: the body.
        title: may be empty.
        source_id: the id it had in its own corpus, if any (question sets refer to it); of a file
            that is one document its path.
        metadata: further fields of its source record.
    """

    text: str
    title: str = ""
    source_id: str = ""
    metadata: dict = field(default_factory=dict, compare=False)

    @cached_property
    def id(self) -> str:
        """32 hex digits: hash of title and text as they are seen, the same on every machine."""
        # NUL keeps them apart: title "a b" with text "c" is not title "a" with text "b c".
        content = seen(f"{self.title}\0{self.text}").encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()


def stored_document(document_id: str, record: Mapping[str, Any]) -> Document:
    """Return a document that a store keeps, under the id that its adapters have.

    Raises:
        ValueError: a record of other fields.
    """
    try:
        document = Document(**record)
    except TypeError as error:
        raise ValueError(
            f"got a document {document_id} of the fields {', '.join(record)}, expected those of "
            "this version: parametrize it again"
        ) from error
    document.__dict__["id"] = document_id  # where another version hashed the text otherwise
    return document


def document_from_record(record: object) -> Document:
    """Read one record: {id, title, text}, BEIR {_id, title, text} or FlashRAG {id, contents}.

    A string is a document without title.

    FlashRAG's first line of `contents` is the title, in quotes. Other fields go to `metadata`.

    Raises:
        ValueError: no text, or a field of another type.
    """
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, Mapping):
        raise ValueError(f"got a JSON {type(record).__name__}, expected an object")
    fields = dict(record)
    ids = [fields.pop(name, None) for name in ("id", "_id")]  # both go, the first one counts
    title, text = _title(fields.pop("title", None)), fields.pop("text", None)
    if text is None and isinstance(contents := fields.pop("contents", None), str):
        first, line_break, rest = contents.partition("\n")
        first = first.strip().strip('"')
        # A title beside `contents` that is another one: the first line belongs to the text.
        has_title = bool(line_break) and title in ("", first)
        title, text = (first, rest) if has_title else (title, contents)
    if not isinstance(text, str) or not isinstance(title, str):
        names = ", ".join(map(str, record)) or "none"
        place = "text or contents" if isinstance(title, str) else "title"
        raise ValueError(f"got the fields {names}, expected a string in {place}")
    (title + text).encode()  # a lone surrogate: UnicodeEncodeError, which is a ValueError
    if is_blank(text):
        raise ValueError("got an empty document, expected text")
    extra = fields.pop("metadata", None)
    if extra is not None and not isinstance(extra, Mapping):  # a column of a table, say
        extra = {"metadata": extra}
    metadata = {**fields, **(extra or {})}
    source_id = next((str(value) for value in ids if value is not None), "")
    return Document(text.strip(), title.strip(), source_id, _storable(metadata, source_id))


def _title(value: object) -> object:
    """Return a title, empty for none (tables read by pandas have NaN); a year is one, too."""
    if not value or value != value:
        return ""
    return str(value) if isinstance(value, int | float) and value is not True else value


def _storable(metadata: dict, source_id: str = "") -> dict:
    """Return metadata; ValueError for half of a character (a lone surrogate) in it or the id."""
    json.dumps([source_id, metadata], ensure_ascii=False, default=str, skipkeys=True).encode()
    return metadata


def as_documents(documents: object) -> list[Document]:
    """Take one document or many, each a `Document`, a text, or a record (`document_from_record`).

    Raises:
        ValueError: anything else, by the name of its type.
    """
    if isinstance(documents, (str, Document, Mapping)):
        documents = [documents]
    # What iterates over something else: bytes, lines of a file, names of columns.
    foreign = isinstance(documents, (bytes, bytearray, PurePath, io.IOBase))
    if foreign or hasattr(documents, "columns") or not isinstance(documents, Iterable):
        raise ValueError(
            f"got a {type(documents).__name__}, expected documents (Document, text or record) or a "
            "list of them: files are read with read_documents, tables with to_dict('records')"
        )
    return [_as_document(number, item) for number, item in enumerate(documents, 1)]


def _as_document(number: int, item: object) -> Document:
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(item)
    if isinstance(item, Mapping):
        try:
            return document_from_record(item)
        except ValueError as error:
            raise ValueError(f"document {number}: {error}") from error
    raise ValueError(
        f"document {number}: got a {type(item).__name__}, expected a Document, a text, or a record "
        "with the field text: convert it"
    )


def read_documents(
    source: str | Path,
    skip_bad: bool = False,
    counts: Counter[str] | None = None,
    encoding: str = "",
) -> list[Document]:
    """Read a whole corpus; documents equal in title and text are kept once.

    Args:
        source: a file of one of KINDS (each also .gz), a folder of them, or "-": standard input,
            which is JSON, JSON lines, or one text.
        skip_bad: leave bad records out instead of raising.
        counts: receives the numbers left out, as "bad", "duplicate" and "left_out" (files of a
            folder), and as "unreadable" how many of these are of a known kind.
        encoding: of files that are not UTF-8 and do not say what they are, e.g. cp1252.

    Raises:
        FileNotFoundError: no such path.
        ValueError: a bad record (unless skip_bad), an unknown suffix, or no document at all.
    """
    counts = Counter() if counts is None else counts
    documents: dict[str, Document] = {}
    for document in iter_documents(source, skip_bad, counts, encoding):
        # The first one stays, with its source id and metadata.
        if documents.setdefault(document.id, document) is not document:
            counts["duplicate"] += 1
    if counts["duplicate"]:
        logger.warning("%s: left out %d duplicate documents", source, counts["duplicate"])
    if not documents:
        raise ValueError(
            f"got no documents in {source} ({counts['bad']} bad records and {counts['left_out']} "
            f"files left out), expected at least one in {', '.join(KINDS)}: check the path and the "
            "field names"
        )
    return list(documents.values())


def require_all_read(source: str | Path, skip_bad: bool, counts: Counter[str]) -> None:
    """Raise ValueError where files of a folder could not be read, unless bad ones may be left out.

    For those who must not go on, or end, as if the folder had been read whole; arguments are those
    of `read_documents`, after it.
    """
    if counts["unreadable"] and not skip_bad:
        raise ValueError(
            f"got {counts['unreadable']} files in {source} that cannot be read (named above), "
            "expected none: correct or remove them, or leave them out with skip_bad"
        )


def iter_documents(
    source: str | Path,
    skip_bad: bool = False,
    counts: Counter[str] | None = None,
    encoding: str = "",
) -> Iterator[Document]:
    """Stream documents, duplicates included, one file line at a time.

    Arguments and errors are those of `read_documents`, except that no document is no error.
    """
    counts = Counter() if counts is None else counts
    reject = records.rejecter(skip_bad, counts)
    check_encoding(encoding)
    if str(source) == "-":
        return _stdin_documents(sys.stdin.buffer.read(), reject, encoding)
    path = Path(source)
    if not str(source) or not path.exists():  # Path("") is the current folder
        raise FileNotFoundError(
            f"got {str(source)!r}, which does not exist, expected a file or folder of documents, "
            'or "-" for standard input: check the path'
        )
    if path.is_dir():
        return _folder_documents(path, reject, counts, encoding)
    if suffix(path) not in KINDS:
        raise ValueError(
            f"got {path}, expected a file that ends in {', '.join(KINDS)} (or one with .gz): "
            "rename or convert it"
        )
    return _file_documents(path, reject, encoding)


def lines_file(folder: Path, stem: str) -> Path | None:
    """Return a folder's file of JSON lines: STEM.jsonl, else STEM.jsonl.gz, else None."""
    paths = (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz")
    return next((path for path in paths if path.is_file()), None)


def _folder_documents(
    folder: Path, reject: Reject, counts: Counter[str], encoding: str
) -> Iterator[Document]:
    """Return the documents of all files below a folder, in the order of their paths."""
    # A corpus folder also holds questions, which are no documents.
    if corpus := lines_file(folder, "corpus"):
        return _file_documents(corpus, reject, encoding)
    paths, others = _files_below(folder, counts)
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        logger.warning("%s: left out %s%s", folder, ", ".join(others[:NAMED]), more)
    if not paths:
        problem = f"got no readable file in {folder} ({', '.join(others[:NAMED]) or 'empty'})"
        raise ValueError(f"{problem}, expected {', '.join(KINDS)} (or with .gz): check the path")
    files = (_whole_file(path, reject, counts, encoding) for path in paths)
    return itertools.chain.from_iterable(files)


def _files_below(folder: Path, counts: Counter[str]) -> tuple[list[Path], list[str]]:
    """Return the files that may be read, sorted, and what else there is, with the reason.

    Hidden files and folders (.git, editors' backups) are neither.
    """
    paths, others = [], []

    def tell(path: Path, reason: str, unreadable: bool = True) -> None:
        counts.update(["left_out", *["unreadable"] * unreadable])
        others.append(f"{path.relative_to(folder)} ({reason})")

    def no_entry(error: OSError) -> None:
        tell(Path(error.filename), error.strerror or "not readable")

    for place, folders, names in os.walk(folder, onerror=no_entry):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(path := Path(place, name)):  # it may lead round in a circle
                tell(path, "a link to a folder", unreadable=False)
        for path in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
            # os.path asks without raising, also in a folder whose files nobody may look at.
            if suffix(path) not in KINDS:
                tell(path, "unknown kind", unreadable=False)
            elif not os.path.isfile(path):
                tell(path, "a broken link" if os.path.islink(path) else "no plain file")
            elif not os.access(path, os.R_OK):
                tell(path, "no permission to read")
            else:
                paths.append(path)
    return sorted(paths), others


def _whole_file(
    path: Path, reject: Reject, counts: Counter[str], encoding: str
) -> Iterable[Document]:
    """Return the documents of a folder's file; none where it cannot be read, which is told."""
    # A file of one document is no record that `skip_bad` leaves out.
    reject = records.refuse if suffix(path) in READERS else reject
    try:
        # All before the first goes on: half a file would look like a whole one.
        return list(_file_documents(path, reject, encoding))
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in FAILURES:
            raise
        counts.update(["left_out", "unreadable"])
        logger.warning("left out a file: %s", sentence(error))
        return ()


def _file_documents(path: Path, reject: Reject, encoding: str) -> Iterator[Document]:
    if (kind := suffix(path)) in READERS:
        with records.open_file(path) as file:
            # Its path: files of one name in several folders are different documents. Names of
            # other encodings as they can be written.
            name = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
            yield from _content_document(path, kind, name, file.read, reject, encoding)
    else:
        pairs = records.iter_records(path, reject, RECORD_FORMS[kind], encoding)
        yield from _record_documents(pairs, reject, kind in ("tsv", "csv"))


def _record_documents(
    pairs: Iterable[tuple[str, object]], reject: Reject, table: bool = False
) -> Iterator[Document]:
    for where, record in pairs:
        try:
            document = document_from_record(_with_text(record) if table else record)
        except ValueError as error:
            reject(where, str(error))
        else:
            yield document


def _with_text(row: object) -> object:
    """Give a table's row without a text of its own one that names all its columns."""
    if not isinstance(row, Mapping) or {"text", "contents"} & row.keys():
        return row
    told = {name: value for name, value in row.items() if name not in ("id", "_id", "title")}
    return {**row, "text": "\n".join(f"{n}: {v}" for n, v in told.items() if v.strip())}


def _content_document(
    where: Path | str,
    kind: str,
    name: str,
    read: Callable[[], bytes],
    reject: Reject,
    encoding: str,
) -> Iterator[Document]:
    """Yield the one document of a file: its path is its id, its name the title if it has none."""
    try:
        content = READERS[kind](read(), encoding)
        metadata = _storable(content.metadata)
    except records.DAMAGED_GZIP as error:
        return reject(where, f"got a damaged gzip file ({error})")
    except ValueError as error:
        return reject(where, str(error))
    if is_blank(content.text):
        return reject(where, "got an empty document, expected text")
    stem = re.sub(r"\.gz$", "", Path(name).name, flags=re.IGNORECASE).rpartition(".")[0]
    yield Document(content.text, content.title or stem, name, metadata)


def _stdin_documents(raw: bytes, reject: Reject, encoding: str) -> Iterator[Document]:
    name = "standard input"
    if raw.startswith(records.GZIP):
        try:
            raw = gzip.decompress(raw)
        except records.DAMAGED_GZIP as error:
            return reject(name, f"got a damaged gzip file ({error})")
    start = raw[:1000].decode(marked_encoding(raw) or encoding or "utf-8", "ignore")
    if JSON_START.match(start):
        pairs = records.stream_records(name, io.BytesIO(raw), reject, "", encoding)
        yield from _record_documents(pairs, reject)
    else:
        kind = "html" if HTML_START.match(start) else "txt"
        kind = next((kind for sign, kind in SIGNS.items() if raw.lstrip().startswith(sign)), kind)
        yield from _content_document(name, kind, "", lambda: raw, reject, encoding)
