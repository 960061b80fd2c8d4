"""Records: JSON lines, JSON, TSV and CSV go in, (where, record) pairs come out, one at a time.

`where` names file and line for error messages. Bad lines go to a `Reject` function.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from prag_core.corpus.encodings import check_encoding, decode, marked_encoding

logger = logging.getLogger(__name__)

# What gzip raises on a file that is cut off, altered or not gzip after its first bytes.
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
# A field of a table, quoted as csv does where the quotes enclose all of it; else as it stands.
TSV_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^\t]*))(?:\t|$)')
csv.field_size_limit(2**31 - 1)  # a field may be a whole document; 131,072 characters otherwise
GZIP = b"\x1f\x8b"  # its first bytes (RFC 1952)
Line = tuple[int, str]  # its number, from 1, and text
Lines = Iterable[Line]
Records = Iterator[tuple[str, object]]
Reject = Callable[[object, str], None]  # (where, problem): raises, or counts when bad is skipped


def suffix(path: Path) -> str:
    """Return the lower-case suffix without dot and without .gz."""
    name = path.name.lower().removesuffix(".gz")
    return name.rsplit(".", 1)[1] if "." in name else ""


def rejecter(skip_bad: bool, counts: Counter[str] | None) -> Reject:
    """Return the function that is told of bad records: it counts and logs them, or raises."""
    counts = Counter() if counts is None else counts  # `or` would drop a caller's empty counter

    def reject(where: object, problem: str) -> None:
        if not skip_bad:
            raise ValueError(f"{where}: {problem}: correct it, or leave it out with skip_bad")
        counts["bad"] += 1
        logger.warning("%s: %s: left out", where, problem)

    return reject


def iter_records(
    path: Path, reject: Reject, form: str = "", encoding: str = ""
) -> Iterator[tuple[str, object]]:
    """Stream (where, record) from JSON lines, a JSON list or object, or a table with a header.

    Args:
        path: the file, plain or gzip-compressed.
        reject: told of bad lines.
        form: "jsonl", "tsv" or "csv"; else recognised by the first line.
        encoding: of a file that is not UTF-8 and has no byte order mark.
    """
    with whole_file(path) as file:
        yield from stream_records(path, file, reject, form, encoding)


def stream_records(
    name: Path | str, file: BinaryIO, reject: Reject, form: str = "", encoding: str = ""
) -> Records:
    """Do as `iter_records` with an open file, which can seek."""
    lines = iter(text_lines(name, file, reject, encoding))
    readers = {"jsonl": _json_line_records, "json": _json_records, "tsv": _tsv_records}
    readers["csv"] = _csv_records
    for first in lines:
        if first[1].strip():
            # A list in a file of JSON lines is a JSON file with another name.
            known = "" if form == "jsonl" and first[1].lstrip().startswith("[") else form
            lines = itertools.chain([first], lines)  # the first line is a record too
            yield from readers[known or _form(first[1])](name, lines, reject)
            return


def file_lines(path: Path) -> Lines:
    """Yield (line number from 1, text) of a file, plain or gzip; ValueError for a bad line."""
    with whole_file(path) as file:
        yield from text_lines(path, file, refuse)


def refuse(where: object, problem: str) -> None:
    """Raise ValueError: a `Reject` where nothing may be left out."""
    raise ValueError(f"{where}: {problem}")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file as `open_file` does; ValueError where a gzip file turns out to be damaged."""
    try:
        with open_file(path) as file:
            yield file
    except DAMAGED_GZIP as error:
        raise ValueError(
            f"got {path}, a damaged gzip file ({error}), expected a whole one: fetch it again"
        ) from error


def open_file(path: Path) -> BinaryIO:
    """Open for reading bytes, through gzip where the content (not the name) says so."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return gzip.open(path) if compressed else path.open("rb")


def text_lines(name: Path | str, file: BinaryIO, reject: Reject, encoding: str = "") -> Lines:
    """Yield (line number from 1, text) of the lines that decode.

    UTF-8 is read line by line, so that a bad line costs no other; anything else as a whole.
    """
    marked = marked_encoding(file.read(4))
    file.seek(0)
    if check_encoding(encoding) or marked not in ("", "utf-8-sig"):
        try:
            text = decode(file.read(), encoding)
        except ValueError as error:
            return reject(name, str(error))
        yield from enumerate(io.StringIO(text.removeprefix("\ufeff"), newline="\n"), 1)
        return None
    for number, raw in enumerate(file, 1):
        try:
            text = decode(raw)
        except ValueError as error:
            reject(f"{name}, line {number}", str(error))
        else:
            yield number, text


def parse_json(text: str) -> object:
    """Parse JSON; ValueError for what is none: NaN, a key that occurs twice, too deep a nesting."""
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("got JSON that is nested too deeply, expected a flat record") from error


def _refuse(constant: str) -> object:
    raise ValueError(f"got {constant}, which is no JSON, expected a number or null")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):  # json itself keeps the last one without a word
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"got the key {twice[0]!r} twice in one object, expected it once")
    return members


def _json_line_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    """Parse one JSON value a line; blank lines are none."""
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = parse_json(line)
        except json.JSONDecodeError as error:
            reject(where, f"malformed JSON ({error.msg} at column {error.colno})")
        except ValueError as error:
            reject(where, str(error))
        else:
            yield from _unwrapped(where, record)


def _json_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    numbered = list(lines)
    try:
        value = parse_json("".join(line for _, line in numbered))
    except json.JSONDecodeError as error:
        line = numbered[0][0] + error.lineno - 1  # blank lines at the top were dropped
        return reject(
            f"{path}, line {line}", f"malformed JSON ({error.msg} at column {error.colno})"
        )
    except ValueError as error:
        return reject(path, str(error))
    if isinstance(value, list):
        value = {"documents": value}
    yield from _unwrapped(str(path), value)


def _unwrapped(where: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the members of {"documents": [...]}, or the value itself."""
    # One key alone: an object with more keys is a record that has a field of that name.
    if isinstance(value, dict) and isinstance(value.get("documents"), list) and len(value) == 1:
        members = value["documents"]
        yield from ((f"{where}, record {i}", record) for i, record in enumerate(members, 1))
    else:
        yield where, value


def _tsv_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    """Parse tab-separated lines, some of whose fields may be quoted."""
    return _rows(path, _tsv_rows(lines), reject)


def _tsv_rows(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    # Line by line, so that a stray quote mark cannot swallow the lines after it.
    columns = 0
    for number, line in lines:
        plain = line.rstrip("\r\n")
        fields = [
            match[2] if match[1] is None else match[1].replace('""', '"')
            for match in TSV_FIELD.finditer(plain + "\t")
        ][:-1]
        columns = columns or len(fields)
        # Quote marks that only look as if they enclosed a tab.
        yield number, fields if len(fields) == columns else plain.split("\t")


def _csv_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    """Parse comma-separated rows (or with semicolons, tabs, bars), quoted fields of many lines."""
    return _rows(path, _csv_rows(path, iter(lines), reject), reject)


def _csv_rows(
    path: Path | str, lines: Iterator[Line], reject: Reject
) -> Iterator[tuple[int, list[str]]]:
    header = next(lines)
    delimiter = max(",;\t|", key=header[1].count)
    if hint := re.fullmatch(r"sep=(.)\s*", header[1]):  # a line that Excel writes and reads
        delimiter, header = hint[1], next(lines, (1, ""))
    number, ended = header[0], False

    def texts() -> Iterator[str]:
        nonlocal number, ended
        for number, line in itertools.chain([header], lines):  # noqa: B007 (nonlocal)
            yield line
        ended = True

    # strict: a quote mark that is never closed is an error at the end, and no long field.
    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        start = number + (reader.line_num > 0)
        try:
            yield start, next(reader)
        except csv.Error as error:
            if ended and number > start:  # all of them would be one bad record
                refuse(
                    f"{path}, lines {start} to {number}",
                    "got a quote mark that is never closed, expected its end: close it, or write "
                    'it twice ("")',
                )
            reject(f"{path}, line {start}", f"malformed CSV ({error})")
        except StopIteration:
            return


def _rows(path: Path | str, rows: Iterable[tuple[int, list[str]]], reject: Reject) -> Records:
    """Name the fields of each row by the header, the first one; blank rows are none.

    Columns without a name, such as the index that pandas writes, are left out.
    """
    columns: list[str] = []
    for number, fields in rows:
        where = f"{path}, line {number}"
        if not any(field.strip() for field in fields):
            continue
        if not columns:
            columns = [name.strip().lower() for name in fields]
            named = [name for name in columns if name]
            if twice := sorted({name for name in named if named.count(name) > 1}):
                raise ValueError(
                    f"got columns {twice} twice in {where}, expected each once: rename one of them"
                )
        elif len(fields) != len(columns):
            names = ", ".join(columns)
            reject(where, f"got {len(fields)} columns, expected {len(columns)} ({names})")
        else:
            pairs = zip(columns, fields, strict=True)
            yield where, {name: field for name, field in pairs if name}


def _form(first_line: str) -> str:
    """Recognise a file by its first line."""
    if not first_line.lstrip().startswith(("{", "[")):
        return "tsv" if "\t" in first_line else "csv"
    try:
        return "jsonl" if isinstance(json.loads(first_line), dict) else "json"
    except ValueError:  # one value over many lines
        return "json"
    except RecursionError:
        return "jsonl"
