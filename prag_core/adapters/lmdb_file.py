"""One LMDB file: transactions go in; growth, full disks and foreign files are dealt with here.

LMDB gives many reader processes and one writer at a time (a second one waits). Added here: a
format version, a map that grows, a quota, and errors that say got, expected and remedy.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary, finalize

import lmdb

from prag_core.adapters.lock_file import allocate_lock_file

FORMAT_KEY = b"format"
MAX_READERS = 1024
SCAN_ROWS = 1024  # rows read in one transaction, as a long one would keep freed pages alive
PATIENCE = 2.0  # seconds that another process may take to write its first pages
DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)  # EIO: LMDB's short write
WRITE_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM)
Result = TypeVar("Result")
_OPEN: WeakValueDictionary = WeakValueDictionary()  # (process, device, inode of folder) -> file


class LmdbFile:
    """Named LMDB databases in `folder/data.mdb`; safe to use from several threads.

    Attributes:
        databases: handle by name, to be passed as `db=` to the transaction's methods.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        file_format: dict,
        readonly: bool = False,
        map_size: int = 1 << 26,
        max_bytes: int | None = None,
    ) -> None:
        """Open the file, or create it unless `readonly`.

        Raises:
            FileNotFoundError: nothing to read there.
            OSError: the folder cannot be written, or the disk is full.
            ValueError: a foreign or truncated file, or one of another format.
        """
        self.folder, self.readonly, self.databases = folder, readonly, {}
        self._names, self._format = names, file_format
        self._map_size = min(map_size, max_bytes or map_size)
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._env: lmdb.Environment | None = None
        self._folder_handle = self._open_folder()
        self._close_folder = finalize(self, os.close, self._folder_handle)
        try:
            self._refuse_second_opening()
            fcntl.flock(self._folder_handle, fcntl.LOCK_SH)  # waits while another one compacts
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """The one file with the content (`lock.mdb` beside it may be deleted when unused)."""
        return self.folder / "data.mdb"

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction]:
        """Give a read transaction: one consistent state of all databases. Keep it short.

        Values come as memory views that end with it: copy what is to stay.
        """
        with self._lock, self._clear_errors(), self._begin(buffers=True) as transaction:
            yield transaction

    def write(self, change: Callable[[lmdb.Transaction], Result], frees: bool = False) -> Result:
        """Run `change` in one write transaction; waits while another process writes.

        A full map doubles, then `change` runs again on a clean transaction. `frees` marks a
        change that makes room: it may exceed the quota by the pages it needs to do so.

        Raises:
            OSError: read-only, disk full or quota reached; everything committed before stays.
        """
        if self.readonly:
            message = f"got a change to {self.folder}, expected reads as it was opened readonly"
            raise OSError(errno.EROFS, f"{message}: open the store for writing")
        with self._lock, self._clear_errors():
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        return change(transaction)
                except lmdb.MapFullError:
                    self._grow(frees)

    def scan(self, database: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (key, value) in order, some rows a transaction."""
        start, rows = prefix, [(b"", b"")]
        while rows:
            with (
                self.reading() as transaction,
                transaction.cursor(self.databases[database]) as cursor,
            ):
                found = cursor.iternext() if cursor.set_range(start) else ()
                pairs = ((bytes(name), bytes(value)) for name, value in islice(found, SCAN_ROWS))
                rows = [pair for pair in pairs if pair[0].startswith(prefix)]
            yield from rows
            start = rows[-1][0] + b"\0" if rows else b""  # the next possible key

    @contextmanager
    def replacing(self) -> Iterator[Callable[[Path], None]]:
        """Give a function that puts another file in place of this one, while no one else reads.

        Raises ValueError where another process has the file open.
        """
        with self._lock:
            try:
                fcntl.flock(self._folder_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                fcntl.flock(self._folder_handle, fcntl.LOCK_SH)
                raise ValueError(
                    f"got {self.folder} open in another process, expected it closed there while "
                    "it is compacted: close it there and try again"
                ) from error
            try:
                yield self._replace
            finally:
                fcntl.flock(self._folder_handle, fcntl.LOCK_SH)

    def close(self) -> None:
        """Close; a second call does nothing."""
        with self._lock:
            if self._env is not None:
                self._env.close()
                self._env = None
            self._close_folder()

    def _replace(self, other: Path) -> None:
        self._environment().close()
        try:
            os.replace(other, self.path)
            os.fsync(self._folder_handle)
        finally:
            self._open()

    def _open_folder(self) -> int:
        if self.readonly and not self.path.is_file():
            raise FileNotFoundError(
                f"got no store at {self.folder}, expected a folder with data.mdb: check the path, "
                "or parametrize documents first"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise OSError(
                error.errno,
                f"got {self.folder} ({error.strerror}), expected a folder that can be made and "
                "written: choose another path for the store or change its permissions",
            ) from error

    def _refuse_second_opening(self) -> None:
        """Closing one of two LMDB environments would drop the locks of both in this process."""
        status = os.fstat(self._folder_handle)
        first = _OPEN.setdefault((os.getpid(), status.st_dev, status.st_ino), self)
        if first is not self and first._close_folder.alive:
            raise ValueError(
                f"got {self.folder}, which is already open in this process, expected one opening: "
                "share the open store, or close it first"
            )
        _OPEN[os.getpid(), status.st_dev, status.st_ino] = self

    def _open(self) -> None:
        if not _patiently(lambda: not self.path.is_file() or self.path.stat().st_size > 0):
            raise ValueError(
                f"got an empty file {self.path}, expected an adapter store: restore it from a "
                "backup, or delete it to start a new store"
            )
        with self._clear_errors():
            self._env = self._open_environment()
            self._refuse_truncated()
            if self.readonly:
                _patiently(lambda: self._env.stat()["entries"] > 0)
            self._open_databases()

    def _open_environment(self) -> lmdb.Environment:
        settings = {"map_size": self._map_size, "max_dbs": len(self._names),
                    "max_readers": MAX_READERS}  # fmt: skip
        if not self.readonly:
            try:
                allocate_lock_file(self.folder, MAX_READERS)
            except OSError as error:
                raise self._no_room(error.errno, error) from error
            env = lmdb.open(str(self.folder), **settings)
            env.reader_check()  # frees the slots of readers that were killed
            return env
        try:
            return lmdb.open(str(self.folder), readonly=True, **settings)
        except (lmdb.ReadonlyError, lmdb.LockError):  # no right to make lock.mdb: no one writes
            return lmdb.open(str(self.folder), readonly=True, lock=False, **settings)

    def _no_room(self, number: int, error: Exception) -> OSError:
        return OSError(
            number,
            f"got no room to write {self.path} ({error}), expected free space: free some and try "
            "again; all that was there is kept",
        )

    def _refuse_truncated(self) -> None:
        """Refuse a file shorter than its page count: reading past its end kills the process."""
        expected = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if (found := self.path.stat().st_size) < expected:
            raise ValueError(
                f"got {self.path} of {found} bytes, expected {expected}: it was truncated; restore "
                f"it from a backup (`truncate -s {expected}` on a copy can bring back the adapters "
                "whose pages are left), or delete it to start a new store"
            )

    def _open_databases(self) -> None:
        """Check the format and open all named databases; a new file gets both."""
        env, create = self._environment(), not self.readonly
        with self._begin(write=create) as transaction:
            found = transaction.get(FORMAT_KEY)
            if found is None and create and not transaction.stat()["entries"]:
                found = json.dumps(self._format).encode()
                transaction.put(FORMAT_KEY, found)
            found = "none" if found is None else json.loads(found)
            if found != self._format:
                raise ValueError(
                    f"got {self.path} of format {found}, expected {self._format}: name another "
                    "folder, or use the version of this package that wrote it"
                )
            for name in self._names if create else ():
                self.databases[name] = env.open_db(name.encode(), transaction)
        for name in () if create else self._names:  # a read transaction's handles end with it
            self.databases[name] = env.open_db(name.encode(), create=False)

    def _environment(self) -> lmdb.Environment:
        if self._env is None:
            raise ValueError(f"got a closed store {self.folder}, expected an open one: open it")
        return self._env

    def _begin(self, **options: bool) -> lmdb.Transaction:
        while True:
            try:
                return self._environment().begin(**options)
            except lmdb.MapResizedError:  # another process grew the map
                self._environment().set_mapsize(0)

    def _grow(self, frees: bool) -> None:
        size = self._environment().info()["map_size"]
        limit = None if frees else self._max_bytes
        if limit is not None and size >= limit:
            raise OSError(
                errno.ENOSPC,
                f"got more than fits {self.folder}, expected at most max_bytes={limit}: raise "
                "max_bytes, or delete adapters and compact; all that was there is kept",
            )
        self._environment().set_mapsize(min(2 * size, limit or 2 * size))

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            number = next((n for n in DISK_ERRORS if os.strerror(n) in str(error)), None)
            if number is not None:
                raise self._no_room(number, error) from error
            denied = any(os.strerror(n) in str(error) for n in WRITE_ERRORS)
            if not self.readonly and (denied or isinstance(error, lmdb.ReadonlyError)):
                raise OSError(
                    errno.EACCES,
                    f"got a folder that cannot be written, {self.folder} ({error}), expected one "
                    "that can: change its permissions, or open the store with readonly=True",
                ) from error
            raise ValueError(
                f"got {self.path} that LMDB cannot use ({error}), expected an adapter store: "
                "restore the file from a backup, or delete it to start a new store"
            ) from error


def _patiently(is_done: Callable[[], bool]) -> bool:
    """Ask until it is done or patience ends; return whether it is."""
    deadline = time.monotonic() + PATIENCE
    while not (done := is_done()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return done
