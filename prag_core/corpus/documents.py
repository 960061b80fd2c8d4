"""Documents: text files of many kinds go in, `Document` records come out.

A bad record (malformed line, empty document, binary file) raises ValueError that names file and
line. With `skip_bad` it is left out instead and counted under "bad" in `counts`.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from prag_core.corpus import records
from prag_core.corpus.characters import seen
from prag_core.corpus.records import Reject, suffix

FORMATS = ("jsonl", "json", "tsv", "txt", "md")
# Names of the corpus in a question set's folder, the first that exists.
CORPUS_FILES = ("corpus.jsonl", "corpus.jsonl.gz")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One retrievable text.

    Attributes:
        text: the body.
        title: may be empty.
        source_id: the id it had in its own corpus, if any (question sets refer to it).
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
    """Return a document that a store keeps, under the id that its adapters have."""
    document = Document(**record)
    document.__dict__["id"] = document_id  # where another version hashed the text otherwise
    return document


def document_from_record(record: object) -> Document:
    """Read one record: {id, title, text}, BEIR {_id, title, text} or FlashRAG {id, contents}.

    FlashRAG's first line of `contents` is the title, in quotes. Other fields go to `metadata`.

    Raises:
        ValueError: no text, or a field of another type.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"got a JSON {type(record).__name__}, expected an object")
    fields = dict(record)
    ids = [fields.pop(name, None) for name in ("id", "_id")]  # both go, the first one counts
    title, text = fields.pop("title", None) or "", fields.pop("text", None)
    if text is None and isinstance(contents := fields.pop("contents", None), str):
        first, line_break, rest = contents.partition("\n")
        first = first.strip().strip('"')
        # A title beside `contents` that is another one: the first line belongs to the text.
        has_title = bool(line_break) and title in ("", first)
        title, text = (first, rest) if has_title else (title, contents)
    if not isinstance(text, str) or not isinstance(title, str):
        names = ", ".join(map(str, record)) or "none"
        raise ValueError(f"got the fields {names}, expected a string in text or contents")
    if not text.strip():
        raise ValueError("got an empty document, expected text")
    extra = fields.pop("metadata", None)
    metadata = {**fields, **(extra if isinstance(extra, Mapping) else {})}
    source_id = next((str(value) for value in ids if value is not None), "")
    (title + text).encode()  # a lone surrogate: UnicodeEncodeError, which is a ValueError
    return Document(text.strip(), title.strip(), source_id, metadata)


def read_documents(
    source: str | Path, skip_bad: bool = False, counts: Counter[str] | None = None
) -> list[Document]:
    """Read a whole corpus; documents equal in title and text are kept once.

    Args:
        source: a jsonl, json, tsv, txt or md file (each also .gz), a folder of them, or "-".
        skip_bad: leave bad records out instead of raising.
        counts: receives the numbers of records left out, as "bad" and "duplicate".

    Raises:
        FileNotFoundError: no such path.
        ValueError: a bad record (unless skip_bad), an unknown suffix, or no document at all.
    """
    counts = Counter() if counts is None else counts
    documents: dict[str, Document] = {}
    for document in iter_documents(source, skip_bad, counts):
        # The first one stays, with its source id and metadata.
        if documents.setdefault(document.id, document) is not document:
            counts["duplicate"] += 1
    if counts["duplicate"]:
        logger.warning("%s: left out %d duplicate documents", source, counts["duplicate"])
    if not documents:
        raise ValueError(
            f"got no documents in {source} ({counts['bad']} bad records left out), expected at "
            f"least one in {', '.join(FORMATS)}: check the path and the field names"
        )
    return list(documents.values())


def iter_documents(
    source: str | Path, skip_bad: bool = False, counts: Counter[str] | None = None
) -> Iterator[Document]:
    """Stream documents, duplicates included, one file line at a time.

    Arguments and errors are those of `read_documents`, except that no document is no error.
    """
    reject = records.rejecter(skip_bad, counts)
    if str(source) == "-":
        return _stdin_documents(sys.stdin.buffer, reject)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"got {path}, which does not exist, expected a file or folder of documents, "
            'or "-" for standard input: check the path'
        )
    files = [path] if path.is_file() else _files_below(path)
    if suffix(files[0]) not in FORMATS:
        raise ValueError(
            f"got {path}, expected a file that ends in {', '.join(FORMATS)} (or one with .gz): "
            "rename or convert it"
        )
    return itertools.chain.from_iterable(_file_documents(file, reject) for file in files)


def _files_below(folder: Path) -> list[Path]:
    # A corpus folder also holds questions, which are no documents.
    for name in CORPUS_FILES:
        if (folder / name).is_file():
            return [folder / name]

    def is_hidden(path: Path) -> bool:  # .git, editors' backups
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    files = (path for path in folder.rglob("*") if path.is_file() and suffix(path) in FORMATS)
    paths = sorted(path for path in files if not is_hidden(path))  # as on every file system
    if not paths:
        problem = f"got no readable file in {folder}"
        raise ValueError(f"{problem}, expected {', '.join(FORMATS)} (or with .gz): check the path")
    return paths


def _file_documents(path: Path, reject: Reject) -> Iterator[Document]:
    if suffix(path) in ("txt", "md"):
        with records.open_file(path) as file:
            yield from _text_document(path, path.name, file.read, reject)
        return
    form = "" if suffix(path) == "json" else suffix(path)  # many .json files are JSON lines
    yield from _record_documents(records.iter_records(path, reject, form), reject)


def _record_documents(pairs: Iterable[tuple[str, object]], reject: Reject) -> Iterator[Document]:
    for where, record in pairs:
        try:
            document = document_from_record(record)
        except ValueError as error:
            reject(where, str(error))
        else:
            yield document


def _text_document(
    path: Path | str, name: str, read: Callable[[], bytes], reject: Reject
) -> Iterator[Document]:
    """Yield the one document of a text; a Markdown file's first heading is its title."""
    try:
        text = records.decode(read(), first=True).strip()
    except records.DAMAGED_GZIP as error:
        return reject(path, f"got a damaged gzip file ({error})")
    except ValueError as error:
        return reject(path, str(error))
    title = name.removesuffix(".gz").rpartition(".")[0]  # the name without its suffix
    heading = re.match(r"# +(.+?)\s*(\n|$)", text)
    if heading and suffix(Path(name)) == "md":
        title, text = heading[1], text[heading.end() :].strip()
    if not text:
        return reject(path, "got an empty document, expected text")
    yield Document(text, title, name)


def _stdin_documents(stream: BinaryIO, reject: Reject) -> Iterator[Document]:
    name = "standard input"
    start = []  # up to the first line that is not blank, which tells JSON lines from text
    for line in stream:
        start.append(line)
        if line.strip():
            break
    # A byte order mark (Windows writes one) is no text.
    if b"".join(start).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        lines = records.decoded_lines(name, itertools.chain(start, stream), reject)
        yield from _record_documents(records.json_line_records(name, lines, reject), reject)
    else:
        yield from _text_document(name, "", lambda: b"".join(start) + stream.read(), reject)
