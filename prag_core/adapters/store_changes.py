"""Changes of a store, files and index together: staged places go in, rows that point to them stay.

The order keeps every row that was committed readable, whenever a process ends: files are staged and
synchronised, then, while no other process writes, renamed into place and only then named by rows.
What no row names is left to `sweep`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

from prag_core.adapters.adapter import fingerprint
from prag_core.adapters.durable import sync_folders, sync_tree
from prag_core.adapters.peft_files import NOTE
from prag_core.adapters.store_index import StoreIndex
from prag_core.adapters.store_places import COLUMNS, PACKS, SCRATCH, Row

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
WRITE_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM)
_NAMES = ", ".join("specs.spec" if name == "spec" else name for name in COLUMNS)
SELECT = f"SELECT {_NAMES} FROM adapters JOIN specs ON specs.hash = adapters.spec"
INSERT = f"INSERT OR REPLACE INTO adapters ({', '.join(COLUMNS)}) VALUES (?,?,?,?,?,?,?,?)"


@contextmanager
def scratch_folder(store: Path) -> Iterator[Path]:
    """Give a folder to stage in, on the store's own file system; it is removed at the end."""
    folder = store / SCRATCH / uuid.uuid4().hex
    with clear_disk_errors(store):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(store: Path, index: StoreIndex, scratch: Path, rows: Sequence[Row]) -> None:
    """Move what was staged into place and let rows name it; replaces what their keys had."""
    sync_tree(scratch)  # outside the lock: others may write meanwhile
    with index.writing() as connection:
        places = _places(connection, (row.key for row in rows))
        move_in(store, scratch, {row.place for row in rows})
        insert_rows(connection, rows)  # last: a row never names what is not there
    retire(store, index, places - {row.place for row in rows})


def move_in(store: Path, scratch: Path, places: Iterable[str]) -> None:
    """Rename staged folders and packs into place, durably; call it while no other one writes."""
    parents = set()
    for place in places:
        source, target = scratch / Path(place).name, store / place
        for parent in (target.parent.parent, target.parent):
            parent.mkdir(exist_ok=True)  # its own entry is made durable with the renames
            parents.add(parent)
        if target.exists():
            if _equal(source, target):  # the same adapter, put again or not swept yet
                continue
            # The name is the hash of the content, so that one of the two is damaged: the old one.
            target.rename(scratch / f"{target.name}.damaged")
        source.rename(target)
    sync_folders(parents)


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write rows; a row of the same key is replaced."""
    for row in rows:
        values = dict(zip(COLUMNS, astuple(row), strict=True))
        values["spec"] = _spec_hash(row.spec)
        connection.execute("INSERT OR IGNORE INTO specs VALUES (?, ?)", (values["spec"], row.spec))
        connection.execute(INSERT, tuple(values.values()))


def delete_rows(store: Path, index: StoreIndex, keys: Sequence[str]) -> int:
    """Remove rows in one transaction; returns how many were there. Their files wait for `sweep`."""
    with index.writing() as connection:
        places = _places(connection, keys)
        count = sum(
            connection.execute("DELETE FROM adapters WHERE key = ?", (key,)).rowcount
            for key in keys
        )
    retire(store, index, places)
    return count


def retire(store: Path, index: StoreIndex, places: Iterable[str]) -> None:
    """Mark places that no row names any more: their grace begins, and `reindex` passes over them.

    A folder loses its note, which also sets its time; a pack is only touched, as its other
    adapters may live.
    """
    if not places:  # most puts replace nothing, and wait for no lock again
        return
    with index.writing() as connection:  # so that nobody takes a place into use again meanwhile
        for place in places:
            if _is_named(connection, place):
                continue
            with suppress(FileNotFoundError):
                if place.startswith(PACKS):
                    os.utime(store / place)
                else:
                    (store / place / NOTE).unlink()


@contextmanager
def clear_disk_errors(store: Path) -> Iterator[None]:
    """Let errors of the disk say got, expected and remedy."""
    try:
        yield
    except OSError as error:
        if str(error.strerror).startswith("got "):  # it says so already
            raise
        if error.errno in DISK_ERRORS:
            raise OSError(
                error.errno,
                f"got no room to write {error.filename or store} ({error.strerror}), expected free "
                "space: free some and try again; all that was there is kept",
            ) from error
        if error.errno in WRITE_ERRORS:
            raise OSError(
                error.errno,
                f"got a folder that cannot be written, {store} ({error.strerror}), expected one "
                "that can: change its permissions, or open the store with readonly=True",
            ) from error
        raise


def _places(connection: sqlite3.Connection, keys: Iterable[str]) -> set[str]:
    query = "SELECT place FROM adapters WHERE key = ?"
    return {place for key in keys for (place,) in connection.execute(query, (key,))}


def _is_named(connection: sqlite3.Connection, place: str) -> bool:
    query = "SELECT 1 FROM adapters WHERE place = ? LIMIT 1"
    return connection.execute(query, (place,)).fetchone() is not None


def _equal(source: Path, target: Path) -> bool:
    """Say whether two folders or files hold the same bytes."""
    if source.is_file():
        return source.read_bytes() == target.read_bytes()
    names = {path.name for path in source.iterdir()}
    return names == {path.name for path in target.iterdir()} and all(
        (source / name).read_bytes() == (target / name).read_bytes() for name in names
    )


@lru_cache(64)
def _spec_hash(text: str) -> str:
    return fingerprint(json.loads(text))
