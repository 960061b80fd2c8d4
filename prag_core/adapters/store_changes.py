"""Changes of a store, files and index together: staged places go in, rows that point to them stay.

The order keeps every row that was committed readable, whenever a process ends: files are staged and
synchronised, then, while no other process writes, renamed into place and only then named by rows.
What no row names is left to `sweep`, which works under the same lock.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from prag_core.adapters import store_places
from prag_core.adapters.durable import sync_folders, sync_tree
from prag_core.adapters.peft_files import NOTE
from prag_core.adapters.store_index import Row, StoreIndex, clear_errors, insert_rows, raise_failure
from prag_core.adapters.store_places import PACKS


@contextmanager
def scratch_folder(index: StoreIndex) -> Iterator[Path]:
    """Give a folder to stage in, on the store's own file system; it is removed at the end."""
    index.require_writable()
    folder = index.folder / store_places.SCRATCH / uuid.uuid4().hex
    with clear_errors(index.folder):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(
    index: StoreIndex, scratch: Path, rows: Sequence[Row], moved: Mapping[str, str] | None = None
) -> None:
    """Move what was staged into place and let rows name it; replaces what their keys had.

    Args:
        index: of the store.
        scratch: where it was staged.
        rows: they say the places to come.
        moved: former place by key; a row whose key has another was changed meanwhile, and stays.
    """
    sync_tree(scratch)  # outside the lock: others may write meanwhile
    with index.writing() as connection:
        before = _places(connection, [row.key for row in rows])
        if moved is not None:
            rows = [row for row in rows if before.get(row.key) == moved[row.key]]
        places = {row.place for row in rows}
        shared = {place for row in rows if (place := store_places.shared_place(row))}
        # What is packed again has its shared rows in place.
        staged = {place for place in shared if (scratch / Path(place).name).exists()}
        _move_in(index.folder, scratch, places | staged)
        insert_rows(connection, rows)  # last: a row never names what is not there
    _retire(index, set(before.values()) - places)


def delete_rows(index: StoreIndex, keys: Sequence[str]) -> int:
    """Remove rows in one transaction; returns how many were there. Their files wait for `sweep`."""
    with index.writing() as connection:
        places = _places(connection, keys)
        connection.executemany("DELETE FROM adapters WHERE key = ?", [(key,) for key in places])
    _retire(index, set(places.values()))
    return len(places)


def damage(index: StoreIndex) -> Iterator[str]:
    """Read all adapters that the index names; yield a line for what is not as it was written.

    Raises:
        OSError: the machine or a server fails.
    """
    for (line,) in index.rows("PRAGMA quick_check"):
        if line != "ok":
            yield f"{index.path.name}: {line}"
    for row in index.scan_adapters():
        try:
            store_places.check_files(index.folder, row)
        except (OSError, ValueError) as error:
            try:
                raise_failure(error, index.folder / row.place)
            except PermissionError as denied:  # of one file, which may be sound: the others go on
                yield f"{row.key}: {denied.strerror}"
                continue
            if index.adapters("key = ? AND place = ?", row.key, row.place):  # not replaced since
                yield f"{row.key}: {store_places.damage(index.folder, row, error)}"


def sweep(index: StoreIndex, grace: float) -> int:
    """Pack again what lies in half-empty packs, then remove what no row names; return bytes freed.

    Args:
        index: of the store.
        grace: seconds that something must have lain unused, as others may be reading it, or
            staging it.
    """
    _repack(index)  # first, so that what it leaves may go at once where grace is 0
    latest = time.time() - grace
    with scratch_folder(index) as scratch:
        with index.writing() as connection:
            query = "SELECT DISTINCT place FROM adapters"
            named = {index.folder / place for (place,) in connection.execute(query)}
            query = "SELECT DISTINCT json_extract(metadata, ?) FROM adapters WHERE start >= 0"
            files = connection.execute(query, (f"$.{store_places.SHARED}",))
            named |= {index.folder / PACKS / name for (name,) in files if name}
            patterns = store_places.PATTERNS
            places = {path for pattern in patterns for path in index.folder.glob(pattern)}
            # In this order a pack goes before the file that says that it is retired.
            for number, path in enumerate(sorted(places - named - {scratch})):
                with suppress(FileNotFoundError):  # another process clears what it staged itself
                    if _unused_since(path) <= latest:  # quick: removing takes longer, without lock
                        path.rename(scratch / str(number))
        size = disk_bytes(scratch)
        shutil.rmtree(scratch)
    return size


def _unused_since(path: Path) -> float:
    """Return when a place that no row names was used last, in seconds since the epoch."""
    retired = store_places.retired_file(path)
    return (retired if retired.exists() else path).stat().st_mtime


def reindex(index: StoreIndex) -> int:
    """Rebuild the rows of all adapters from what lies in the folders; return how many there are."""
    with index.writing() as connection:  # all or nothing: one unreadable note leaves the old rows
        connection.execute("DELETE FROM adapters")
        insert_rows(connection, store_places.rows_on_disk(index.folder))
    return int(index.rows("SELECT count(*) FROM adapters")[0][0])


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process removes what is not used
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _places(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, str]:
    """Return the place by key, of those that are there."""
    query = "SELECT key, place FROM adapters WHERE key = ?"
    return dict(row for key in keys for row in connection.execute(query, (key,)))


def _move_in(store: Path, scratch: Path, places: Iterable[str]) -> None:
    """Rename staged folders and packs into place, durably; call it while no other one writes."""
    parents = set()
    for place in places:
        source, target = scratch / Path(place).name, store / place
        for parent in (target.parent.parent, target.parent):
            parent.mkdir(exist_ok=True)  # its own entry is made durable with the renames
            parents.add(parent)
        store_places.retired_file(target).unlink(missing_ok=True)  # it is in use again
        if target.exists():
            if _content(source) == _content(target):  # the same, put again or not swept yet
                os.utime(target)  # the newest of its keys, for `reindex`
                continue
            # The name is the hash of the content, so that one of the two is damaged: the old one.
            target.rename(scratch / f"{target.name}.damaged")
        source.rename(target)
    sync_folders(parents)


def _content(place: Path) -> dict[str, bytes]:
    paths = [place] if place.is_file() else place.iterdir()
    return {path.name: path.read_bytes() for path in paths}


def _retire(index: StoreIndex, places: set[str]) -> None:
    """Mark places that no row names any more: their grace begins, and `reindex` passes over them.

    A folder loses its note, which also sets its time; a pack, which others may be reading, gets a
    file beside it.
    """
    if not places:  # most puts replace nothing, and wait for no lock again
        return
    with index.writing() as connection:  # so that nobody takes a place into use again meanwhile
        for place in places:
            query = "SELECT 1 FROM adapters WHERE place = ? LIMIT 1"
            if connection.execute(query, (place,)).fetchone():
                continue
            with suppress(FileNotFoundError):
                if place.startswith(PACKS):
                    store_places.retired_file(index.folder / place).touch()
                else:
                    (index.folder / place / NOTE).unlink()


def _repack(index: StoreIndex) -> None:
    """Copy the adapters of packs that are half empty, or not half full, into full packs."""
    query = "SELECT place, count(*), sum(bytes) FROM adapters WHERE start >= 0 GROUP BY place"
    wasteful, small = [], []
    for place, count, size in index.rows(query):
        with suppress(FileNotFoundError):
            if 2 * size < (index.folder / place).stat().st_size:
                wasteful.append(place)
            # A pack may be full by its bytes too, of large adapters.
            elif 2 * count < store_places.PACK_ROWS and 2 * size < store_places.PACK_BYTES:
                small.append(place)
    # A single small pack has nothing to be joined with: copying it would never end.
    places = wasteful + (small if wasteful or len(small) > 1 else [])
    moved: dict[str, str] = {}

    def entries() -> Iterator[tuple[Row, bytes]]:
        for row in (row for place in places for row in index.adapters("place = ?", place)):
            with suppress(ValueError, FileNotFoundError):  # `verify` names it; here it stays behind
                value = store_places.read_part(index.folder, row, store_places.SLICE)
                moved[row.key] = row.place
                yield row, value

    with scratch_folder(index) as scratch:
        for rows in store_places.stage_packs(scratch, entries()):
            publish(index, scratch, rows, moved)
