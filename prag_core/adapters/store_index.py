"""The index of a store: SQL goes in, rows come out, from one SQLite file that processes share.

Its journal is a rollback journal, so that a folder that cannot be written can be read. Errors of
SQLite come out as OSError (disk, permissions, patience) or ValueError (a file that is no index).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from errno import EACCES, EEXIST, EIO, ENOSPC, ENOTDIR, EPERM, EROFS, ETIMEDOUT
from pathlib import Path
from typing import Any

from prag_core.adapters.adapter import fingerprint
from prag_core.files import FAILURES, FULL, ROOMLESS

INDEX = "index.sqlite"
PATIENCE = 60.0  # seconds that another process may take for its change
PAGE_ROWS = 1000  # rows of one read: a long one would keep writers from committing
CACHE_KIB = 1 << 16
LAST = "\U0010ffff"  # sorts behind every text
# What the columns hold says `Row`; texts other than keys and places are JSON.
SCHEMA = """
CREATE TABLE IF NOT EXISTS specs (hash TEXT PRIMARY KEY, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS adapters (
    key TEXT PRIMARY KEY, document TEXT NOT NULL, spec TEXT NOT NULL REFERENCES specs,
    metadata TEXT NOT NULL, place TEXT NOT NULL, start INTEGER NOT NULL, bytes INTEGER NOT NULL,
    checksums TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS adapters_place ON adapters (place);
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, key TEXT NOT NULL, record TEXT NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
);
"""
SELECT = (
    "SELECT key, document, specs.spec, metadata, place, start, bytes, checksums "
    "FROM adapters JOIN specs ON hash = adapters.spec WHERE"
)
# What a user reads of errors of the disk, by number.
DENIED = (
    "got {}, which cannot be opened or cannot be written, expected a folder that can: change its "
    "permissions, choose another path, or open the store with readonly=True"
)
UNREADABLE = "got no permission to read {}, expected it: change its owner or mode"
BUSY = (
    f"got {{}} for {PATIENCE:g} seconds, expected its turn: another process changes it, let it end "
    "or end it, and try again"
)
MEANINGS = dict.fromkeys(ROOMLESS, FULL) | {ETIMEDOUT: BUSY}
MEANINGS |= dict.fromkeys((EROFS, EACCES, EPERM, EEXIST, ENOTDIR), DENIED)
# SQLite says the same in words; its own codes are there from Python 3.11 on.
SQLITE_NUMBERS = {
    "is full": ENOSPC, "disk I/O error": EIO, "locked": ETIMEDOUT, "readonly": EACCES,
    "unable to open": EACCES,
}  # fmt: skip
_INHERITED: list[sqlite3.Connection] = []  # a forked child must not close its parent's


@dataclass(frozen=True)
class Row:
    """What the index knows of one adapter.

    Attributes:
        key: what it was put under.
        document: id of its document.
        spec: fields of its `AdapterSpec`; the table `specs` has each once.
        metadata: of the adapter.
        place: its folder, or the file of its pack, below the store; where it lies in a shard, the
            whole path or url.
        start: its first byte in the pack, -1 in a folder.
        bytes: of the weights, and of the memory.
        checksums: CRC-32 by file name.
    """

    key: str
    document: str
    spec: Mapping[str, Any]
    metadata: Mapping[str, str]
    place: str
    start: int
    bytes: int
    checksums: Mapping[str, int]

    @property
    def note(self) -> dict[str, Any]:
        """The row for `prag_adapter.json`, but for the place, which the folder says itself."""
        return {name: x for name, x in asdict(self).items() if name not in ("place", "start")}


class StoreIndex:
    """Tables of adapters and records in one SQLite file; safe to use from several threads."""

    def __init__(self, folder: Path, readonly: bool | None) -> None:
        """Name the store; its index is opened when it is first used.

        Args:
            folder: of the store.
            readonly: None is True where the folder cannot be written.

        Raises:
            OSError: it cannot be written, but should be.
        """
        self.folder, self.path = folder, folder / INDEX
        index = self.path if self.path.exists() else folder
        can_write = os.access(folder, os.W_OK) and os.access(index, os.W_OK)
        if readonly is False and not can_write:
            raise _disk_error(EACCES, folder, "no permission")
        self.readonly = not can_write if readonly is None else readonly
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process, self._closed = os.getpid(), False

    def create(self) -> None:
        """Make file and tables, unless they are there."""
        with clear_errors(self.path):
            self.path.touch()  # raises OSError with a name where SQLite would say "unable to open"
            with closing(self._connect("rwc")) as connection:
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    def rows(self, query: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._lock, clear_errors(self.path):
            return self._open().execute(query, parameters).fetchall()

    def scan(self, query: str, prefix: str = "", *parameters: str) -> Iterator[tuple[Any, ...]]:
        """Iterate over rows in order of their keys, a page at a time.

        Args:
            query: up to WHERE or AND; its first column is the key.
            prefix: keys that begin with it.
            parameters: of the query.
        """
        start = prefix
        query += " key >= ? AND key < ? ORDER BY key LIMIT ?"
        while page := self.rows(query, *parameters, start, prefix + LAST, PAGE_ROWS):
            yield from page
            start = page[-1][0] + "\0"  # the next possible key

    def adapters(self, where: str, *parameters: str) -> list[Row]:
        """Return what is known of adapters."""
        return [_read_row(*values) for values in self.rows(f"{SELECT} {where}", *parameters)]

    def scan_adapters(self, prefix: str = "") -> Iterator[Row]:
        """Iterate over what is known of adapters whose keys begin with prefix, in their order."""
        return (_read_row(*values) for values in self.scan(SELECT, prefix))

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that no other process writes beside; it commits at the end."""
        self.require_writable()
        with self._lock, clear_errors(self.path):
            connection = self._open()
            # Immediate: waits for its turn here, where a later upgrade of the lock could not.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # on a full disk SQLite has rolled back itself
                    connection.execute("ROLLBACK")
                raise

    def absorb(self, other: Path, prefix: str) -> None:
        """Copy rows and records of another index, in one transaction; equal keys are replaced.

        Args:
            other: the file, which is only read.
            prefix: path or url of its store with a slash, under which its places lie.
        """
        with self._lock, clear_errors(other):
            connection = self._open()
            # Before BEGIN: SQLite attaches nothing within a transaction.
            connection.execute("ATTACH ? AS other", (_uri(other, "ro"),))
            try:
                connection.execute("BEGIN IMMEDIATE")
                with connection:  # commits, or undoes all
                    connection.execute("INSERT OR IGNORE INTO specs SELECT * FROM other.specs")
                    connection.execute(
                        "INSERT OR REPLACE INTO adapters SELECT key, document, spec, metadata, "
                        "? || place, start, bytes, checksums FROM other.adapters", (prefix,)
                    )  # fmt: skip
                    connection.execute("INSERT OR REPLACE INTO records SELECT * FROM other.records")
            finally:
                connection.execute("DETACH other")

    def require_writable(self) -> None:
        """Raise OSError where the index was opened for reading."""
        if self.readonly:
            message = f"got a change to {self.folder}, expected reads as it was opened "
            raise OSError(EROFS, f"{message}readonly: open the store for writing")

    def close(self) -> None:
        """Close; a second call does nothing."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection, self._closed = None, True

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise ValueError(f"got a closed store {self.folder}, expected an open one: open it")
        if self._process != os.getpid():
            if self._connection is not None:
                _INHERITED.append(self._connection)
            self._connection, self._process = None, os.getpid()
        if self._connection is None:
            self._connection = self._reader() if self.readonly else self._connect("rw")
        return self._connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            _uri(self.path, mode),
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,  # transactions are begun in `writing`
            check_same_thread=False,  # `_lock` lets one thread in at a time
        )
        if mode.startswith("rw"):
            # The journal stays, its header zeroed and synchronised: a commit is never undone, and
            # on a full disk it still has room for a delete.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA journal_mode=PERSIST")
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return connection

    def _reader(self) -> sqlite3.Connection:
        """Open for reading, with locks where the file system has them.

        `immutable` takes no locks and would not see what others change, so that it comes last.
        """
        connection = self._connect("ro")
        try:
            connection.execute("SELECT 1 FROM adapters LIMIT 1")
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            if not self._is_unfinished():
                return self._connect("ro&immutable=1")
            if os.access(self.folder, os.W_OK):  # its first read undoes what a killed writer left
                return self._connect("rw")
            raise OSError(
                EROFS,
                f"got {self.path} in the middle of a change whose writer ended ({error}), expected "
                "a finished one: open the store once where it can be written",
            ) from error

    def _is_unfinished(self) -> bool:
        """Say whether the journal holds pages to be put back: its header is not zeroed."""
        journal = self.path.with_name(f"{INDEX}-journal")
        if not journal.exists():
            return False
        with journal.open("rb") as file:
            return file.read(1) not in (b"", b"\0")


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write rows; a row of the same key is replaced."""
    for row in rows:
        spec = fingerprint(row.spec)
        connection.execute("INSERT OR IGNORE INTO specs VALUES (?, ?)", (spec, _json(row.spec)))
        metadata, checksums = _json(row.metadata), _json(row.checksums)
        values = (row.key, row.document, spec, metadata, row.place, row.start, row.bytes, checksums)
        connection.execute("INSERT OR REPLACE INTO adapters VALUES (?,?,?,?,?,?,?,?)", values)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Let errors of the disk and of SQLite say got, expected and remedy.

    Args:
        path: what is read or written, where the error does not name it.
    """
    try:
        yield
    except sqlite3.Error as error:
        for words, number in SQLITE_NUMBERS.items():
            if words in str(error):
                raise _disk_error(number, path, error) from error
        raise ValueError(
            f"got {path} that SQLite cannot use ({error}), expected the index of a store: "
            "rebuild it with `prag store reindex`, or restore it from a backup"
        ) from error
    except OSError as error:
        # One that says so already, of an inner call, or of another kind passes.
        if str(error.strerror).startswith("got ") or error.errno not in MEANINGS:
            raise
        raise _disk_error(error.errno, error.filename or path, error.strerror) from error


def raise_failure(error: Exception, path: Path) -> None:
    """Raise an error again that says nothing of what was written: it may be sound.

    Args:
        error: of reading.
        path: what was read, where the error does not name it.

    Raises:
        OSError: the machine or a server fails, or nobody is let in.
    """
    if not isinstance(error, OSError):
        return
    if error.errno in FAILURES:
        if error.filename is None and not str(error.strerror).startswith("got "):
            error.filename = str(path)  # a read names none
        raise error
    if error.errno in (EACCES, EPERM):
        raise OSError(error.errno, UNREADABLE.format(error.filename or path)) from error


def _disk_error(number: int, path: str | Path, cause: object) -> OSError:
    return OSError(number, MEANINGS[number].format(f"{path} ({cause})"))


def _read_row(*values: Any) -> Row:
    key, document, spec, metadata, place, start, size, checksums = values
    try:
        spec, metadata, checksums = (json.loads(text) for text in (spec, metadata, checksums))
    except ValueError as error:
        raise ValueError(
            f"got a damaged row of adapter {key!r} in {INDEX} ({error}), expected JSON: rebuild it "
            "with `prag store reindex`, which keeps adapters and documents"
        ) from error
    return Row(key, document, spec, metadata, place, start, size, checksums)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
