"""Records: JSON lines, JSON and TSV files go in, (where, record) pairs come out, one at a time.

`where` names file and line for error messages. Bad lines go to a `Reject` function.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

# What gzip raises on a file that is cut off, altered or not gzip after its first bytes.
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
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


def iter_records(path: Path, reject: Reject, form: str = "") -> Iterator[tuple[str, object]]:
    """Stream (where, record) from JSON lines, a JSON list or object, or TSV with a header.

    Args:
        path: the file, plain or gzip-compressed.
        reject: told of bad lines.
        form: "jsonl", "json" or "tsv"; empty to recognise it by the first line.
    """
    try:
        with open_file(path) as file:
            lines = decoded_lines(path, file, reject)
            readers = {"jsonl": json_line_records, "json": _json_records, "tsv": _tsv_records}
            for first in lines:
                if first[1].strip():
                    lines = itertools.chain([first], lines)  # the first line is a record too
                    yield from readers[form or _form(first[1])](path, lines, reject)
                    return
    except DAMAGED_GZIP as error:
        raise ValueError(
            f"got {path}, a damaged gzip file ({error}), expected a whole one: fetch it again"
        ) from error


def open_file(path: Path) -> BinaryIO:
    """Open for reading bytes, through gzip where the content (not the name) says so."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"  # gzip's magic number (RFC 1952)
    return gzip.open(path) if compressed else path.open("rb")


def decode(raw: bytes, first: bool = False) -> str:
    """Decode UTF-8 text (`first`: drop a byte order mark).

    Raises:
        ValueError: NUL bytes or not UTF-8.
    """
    if b"\0" in raw:  # valid UTF-8, but the mark of a binary file or of UTF-16
        raise ValueError("got binary content (NUL bytes), expected UTF-8 text")
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"got bytes that are not UTF-8 ({error}), expected UTF-8 text") from error


def decoded_lines(path: Path | str, lines: Iterable[bytes], reject: Reject) -> Iterator[Line]:
    """Yield (line number from 1, text) of the lines that decode."""
    for number, raw in enumerate(lines, 1):
        try:
            text = decode(raw, first=number == 1)
        except ValueError as error:
            reject(f"{path}, line {number}", str(error))
        else:
            yield number, text


def json_line_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    """Parse one JSON value a line; blank lines are none."""
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            reject(where, f"malformed JSON ({error.msg} at column {error.colno})")
        else:
            yield from _unwrapped(where, record)


def _json_records(path: Path | str, lines: Lines, reject: Reject) -> Records:
    numbered = list(lines)
    try:
        value = json.loads("".join(line for _, line in numbered))
    except json.JSONDecodeError as error:
        line = numbered[0][0] + error.lineno - 1  # blank lines at the top were dropped
        reject(f"{path}, line {line}", f"malformed JSON ({error.msg} at column {error.colno})")
        return
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
    """Parse tab-separated lines, quoted as csv does; the first line names the columns."""
    columns: list[str] = []
    for number, line in lines:
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            # Line by line, so that a stray quote mark cannot swallow the lines after it.
            fields = next(csv.reader([line.rstrip("\r\n")], delimiter="\t"))
        except csv.Error as error:
            reject(where, f"malformed TSV ({error})")
            continue
        if not columns:
            columns = [name.strip().lower() for name in fields]
        elif len(fields) != len(columns):
            names = ", ".join(columns)
            reject(where, f"got {len(fields)} columns, expected {len(columns)} ({names})")
        else:
            yield where, dict(zip(columns, fields, strict=True))


def _form(first_line: str) -> str:
    """Recognise a file by its first line."""
    if not first_line.lstrip().startswith(("{", "[")):
        return "tsv"
    try:
        return "jsonl" if isinstance(json.loads(first_line), dict) else "json"
    except json.JSONDecodeError:  # one value over many lines
        return "json"
