"""The index of a store: SQL goes in, rows come out, from one SQLite file that processes share.

Its journal is a rollback journal, so that a folder that cannot be written can be read. Errors of
SQLite come out as OSError (disk, permissions, patience) or ValueError (a file that is no index).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

PATIENCE = 60.0  # seconds that another process may take for its change
PAGE_ROWS = 1000  # rows of one read: a long one would keep writers from committing
CACHE_KIB = 1 << 16
LAST = "\U0010ffff"  # sorts behind every text
SCHEMA = """
CREATE TABLE IF NOT EXISTS specs (hash TEXT PRIMARY KEY, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS adapters (
    key TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    spec TEXT NOT NULL REFERENCES specs,
    metadata TEXT NOT NULL,   -- JSON
    place TEXT NOT NULL,      -- folder of the adapter, or file of the pack, below the store
    start INTEGER NOT NULL,   -- first byte in the pack, -1 in a folder
    bytes INTEGER NOT NULL,   -- of the weights, and of the memory
    checksums TEXT NOT NULL   -- JSON, CRC-32 by file name
);
CREATE INDEX IF NOT EXISTS adapters_place ON adapters (place);
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    record TEXT NOT NULL,     -- JSON
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
);
"""
# What SQLite's messages mean, by a part of each: error number and remedy.
MEANINGS = {
    "is full": (errno.ENOSPC, "free some space and try again; all that was there is kept"),
    "disk I/O error": (errno.EIO, "check the disk and its free space; all that was there is kept"),
    "locked": (errno.ETIMEDOUT, "another process changes it for too long: end it and try again"),
    "readonly": (errno.EACCES, "change its permissions, or open the store with readonly=True"),
    "unable to open": (errno.EACCES, "check that the folder is there and change its permissions"),
}
_INHERITED: list[sqlite3.Connection] = []  # a forked child must not close its parent's


class StoreIndex:
    """Tables of adapters and records in one SQLite file; safe to use from several threads."""

    def __init__(self, path: Path, readonly: bool) -> None:
        """Name the file; it is opened when it is first used."""
        self.path, self.readonly = path, readonly
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process, self._closed = os.getpid(), False

    def create(self) -> None:
        """Make file and tables, unless they are there."""
        with self._clear_errors():
            self.path.touch()  # raises OSError with a name where SQLite would say "unable to open"
            with self._connect("rwc") as connection:
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            connection.close()

    def rows(self, query: str, parameters: tuple[str | int, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._lock, self._clear_errors():
            return self._open().execute(query, parameters).fetchall()

    def scan(self, query: str, prefix: str = "", *fixed: str) -> Iterator[tuple[Any, ...]]:
        """Iterate over rows in order of their keys, a page at a time.

        Args:
            query: its last three parameters are the first key, an end and a limit; its first column
                is the key.
            prefix: keys that begin with it.
            fixed: parameters before these.
        """
        start = prefix
        while page := self.rows(query, (*fixed, start, prefix + LAST, PAGE_ROWS)):
            yield from page
            start = page[-1][0] + "\0"  # the next possible key

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that no other process writes beside; it commits at the end."""
        self.require_writable()
        with self._lock, self._clear_errors():
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

    def require_writable(self) -> None:
        """Raise OSError where the index was opened for reading."""
        if self.readonly:
            message = f"got a change to {self.path.parent}, expected reads as it was opened "
            raise OSError(errno.EROFS, f"{message}readonly: open the store for writing")

    def version(self) -> int:
        """Return a number that changes when another connection has changed anything."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Close; a second call does nothing."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection, self._closed = None, True

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            folder = self.path.parent
            raise ValueError(f"got a closed store {folder}, expected an open one: open it")
        if self._process != os.getpid():
            if self._connection is not None:
                _INHERITED.append(self._connection)
            self._connection, self._process = None, os.getpid()
        if self._connection is None:
            self._connection = self._reader() if self.readonly else self._connect("rw")
        return self._connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode={mode}",
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
            journal = self.path.with_name(f"{self.path.name}-journal")
            if not _is_hot(journal):
                return self._connect("ro&immutable=1")
            if os.access(self.path.parent, os.W_OK):  # undo what a killed writer left
                repaired = self._connect("rw")
                repaired.execute("SELECT 1 FROM adapters LIMIT 1")
                repaired.close()
                return self._connect("ro")
            raise OSError(
                errno.EROFS,
                f"got {self.path} in the middle of a change whose writer ended ({error}), expected "
                "a finished one: open the store once where it can be written",
            ) from error

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            for part, (number, remedy) in MEANINGS.items():
                if part in str(error):
                    raise OSError(number, f"got {self.path} ({error}): {remedy}") from error
            raise ValueError(
                f"got {self.path} that SQLite cannot use ({error}), expected the index of a store: "
                "rebuild it with `prag store reindex`, or restore it from a backup"
            ) from error


def _is_hot(journal: Path) -> bool:
    """Say whether a journal holds pages to be put back: its header is there and not zeroed."""
    if not journal.exists():
        return False
    with journal.open("rb") as file:
        return file.read(1) not in (b"", b"\0")
