"""Upkeep of a store, under the same lock as its changes: verify, sweep and reindex."""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from prag_core.adapters.durable import sync_tree
from prag_core.adapters.peft_files import NOTE
from prag_core.adapters.store_changes import (
    SELECT,
    insert_rows,
    move_in,
    scratch_folder,
)
from prag_core.adapters.store_index import StoreIndex
from prag_core.adapters.store_places import (
    FOLDERS,
    IN_FOLDER,
    PACKS,
    SCRATCH,
    Row,
    load_adapter,
    read_file,
    read_slice,
    rows_on_disk,
    stage_pack,
)

PACK_ROWS = 1024  # adapters of a full pack
NAMED = "SELECT 1 FROM adapters WHERE key = ? AND place = ?"
ROWS = f"{SELECT} WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"


def iter_rows(index: StoreIndex, prefix: str = "") -> Iterator[Row]:
    """Iterate over the rows whose keys begin with a prefix, in order."""
    return (Row(*values) for values in index.scan(ROWS, prefix))


def damage(store: Path, index: StoreIndex) -> Iterator[str]:
    """Read everything that rows name; yield a line for each thing that is not as it was written."""
    for (line,) in index.rows("PRAGMA quick_check"):
        if line != "ok":
            yield f"{index.path.name}: {line}"
    for row in iter_rows(index):
        try:
            if row.start == IN_FOLDER:
                _check_folder(store, row)
            load_adapter(store, row)
        except FileNotFoundError as error:
            if index.rows(NAMED, (row.key, row.place)):  # else it was replaced meanwhile
                yield f"{row.key}: got no file {error.filename}"
        except ValueError as error:
            yield f"{row.key}: {error}"


def _check_folder(store: Path, row: Row) -> None:
    for name in json.loads(row.checksums):
        read_file(store, row, name)
    path = store / row.place / NOTE
    try:
        note = json.loads(path.read_bytes())
    except ValueError:
        note = None
    if note != row.note:
        raise ValueError(f"got damaged bytes in {path}, expected what the index says of it")


def sweep(store: Path, index: StoreIndex, grace: float) -> int:
    """Pack again what lies in half-empty packs, then remove what no row names; return bytes freed.

    Args:
        store: its folder.
        index: its index.
        grace: seconds that something must have lain unused, as others may be reading it, or
            staging it.
    """
    _repack(store, index)  # first, so that what it leaves may go at once where grace is 0
    latest = time.time() - grace
    with scratch_folder(store) as scratch:
        with index.writing() as connection:
            query = "SELECT DISTINCT place FROM adapters"
            named = {store / place for (place,) in connection.execute(query)}
            for number, path in enumerate(set(_places_on_disk(store)) - named - {scratch}):
                with suppress(FileNotFoundError):  # another process clears what it staged itself
                    if path.stat().st_mtime <= latest:  # quick: removing takes longer, without lock
                        path.rename(scratch / str(number))
        size = disk_bytes(scratch)
        shutil.rmtree(scratch)
    return size


def _places_on_disk(store: Path) -> Iterator[Path]:
    yield from (store / FOLDERS).glob("*/*")
    yield from (store / PACKS).glob("*")
    yield from (store / SCRATCH).glob("*")


def _repack(store: Path, index: StoreIndex) -> None:
    """Copy the adapters of packs that are half empty or half full into full packs."""
    query = "SELECT place, count(*), sum(bytes) FROM adapters WHERE start >= 0 GROUP BY place"
    wasteful, small = [], []
    for place, count, size in index.rows(query):
        with suppress(FileNotFoundError):
            if 2 * size < (store / place).stat().st_size:
                wasteful.append(place)
            elif 2 * count < PACK_ROWS:
                small.append(place)
    # A single small pack has nothing to be joined with: copying it would never end.
    places = wasteful + (small if wasteful or len(small) > 1 else [])
    rows = (
        Row(*values)
        for place in places
        for values in index.rows(f"{SELECT} WHERE place = ?", (place,))
    )
    while batch := list(islice(rows, PACK_ROWS)):
        with scratch_folder(store) as scratch:
            _move_rows(store, index, scratch, batch)


def _move_rows(store: Path, index: StoreIndex, scratch: Path, rows: list[Row]) -> None:
    sound = {}
    for row in rows:
        with suppress(ValueError, FileNotFoundError):  # `verify` names it; here it stays behind
            sound[row] = read_slice(store, row)
    if not sound:
        return
    moved = stage_pack(scratch, list(sound), list(sound.values()))
    sync_tree(scratch)
    with index.writing() as connection:
        move_in(store, scratch, {moved[0].place})
        for row, new in zip(sound, moved, strict=True):  # unless it was changed meanwhile
            connection.execute(
                "UPDATE adapters SET place = ?, start = ? WHERE key = ? AND place = ?",
                (new.place, new.start, row.key, row.place),
            )
    for place in {row.place for row in sound} - {moved[0].place}:
        with suppress(FileNotFoundError):
            os.utime(store / place)  # its grace begins


def reindex(store: Path, index: StoreIndex) -> int:
    """Rebuild the rows of all adapters from what lies in the folders; records stay as they are.

    Where a key is there several times, the newest counts. An adapter that was deleted from a pack
    comes back until `sweep` has packed the rest again.

    Returns:
        the number of adapters.
    """
    with index.writing() as connection:  # all or nothing: one unreadable note leaves the old rows
        connection.execute("DELETE FROM adapters")
        insert_rows(connection, rows_on_disk(store))
        return int(connection.execute("SELECT count(*) FROM adapters").fetchone()[0])


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process removes what is not used
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def record_checksum(kind: str, key: str, text: str) -> int:
    """CRC-32 of a record and its name, so that one under a wrong name is found too."""
    return zlib.crc32(f"{kind}\0{key}\0{text}".encode())
