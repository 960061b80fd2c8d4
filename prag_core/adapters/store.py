"""AdapterStore: adapters go in under their keys and come out again, from a folder people can read.

    STORE/store.json           format and version
          index.sqlite         key -> place, document, spec, checksums; JSON records by kind and key
          adapters/3f/3f9c.../ one adapter: stock PEFT files, memory.safetensors, prag_adapter.json
          packs/<hash>.safetensors  up to a thousand small adapters, written in batches
                <hash>.shared       rows that adapters in packs share, once
          tmp/<uuid>/          being written

Many processes may read and write at once; one that writes waits for another.

What may be lost:
    kill -9     nothing that a call acknowledged by returning. Of the call in flight all or nothing
                is there; what it staged lies in tmp/, or unnamed in its place, until `sweep`.
    power loss  the same, as long as the disk keeps what it said it had written: files, their
                names and the index are synchronised, in this order, before a call returns. A note
                that a delete took away may be back, so that `reindex` finds the adapter again.
    the index   `reindex` rebuilds the rows of all adapters from the folders. Records (documents,
                augmentations) are in the index alone: keep a copy of it, or of the corpus.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from prag_core.adapters import store_changes, store_places
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.names import GRACE, INT8
from prag_core.adapters.peft_files import WEIGHTS
from prag_core.adapters.store_index import INDEX, Row, StoreIndex, clear_errors, raise_failure
from prag_core.files import is_url, local_place, write_json

FORMAT = {"format": "prag-adapters", "version": 3}
OLDER = {**FORMAT, "version": 2}  # the same, but that packs have no shared rows apart
HEADER, OLD_FILE = "store.json", "data.mdb"
PACK_FROM = 64  # adapters in one call from which on small ones are packed
SMALL = 1 << 16  # bytes of such an adapter, at most
# As bytes: damaged ones may be no UTF-8, which SQLite would not hand over as text.
RECORDS = "SELECT key, CAST(record AS BLOB), checksum FROM records WHERE kind = ? AND"
log = logging.getLogger(__name__)


class UnknownKeyError(KeyError):
    """No adapter under this key."""

    def __str__(self) -> str:
        """Give the message as it is (KeyError would quote it)."""
        return str(self.args[0])


class DamagedError(ValueError):
    """The files of an adapter, of this `key`, are gone or not as they were written."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class AdapterStore:
    """Adapters by key, and JSON records beside them.

    A damaged record counts as one that is not there; it is named in a warning, and by `verify`.
    """

    def __init__(self, path: str | Path, readonly: bool | None = False) -> None:
        """Open a store; its index is opened when it is first used.

        Args:
            path: folder of the store.
            readonly: False creates the store where there is none. True refuses every change; so
                does None, for what only reads, where the folder cannot be written.

        Raises:
            FileNotFoundError: nothing to read there.
            OSError: the folder cannot be made or written.
            ValueError: a foreign or damaged folder, or one of another format.
        """
        if not str(path):  # Path("") is the current folder
            raise ValueError("got an empty path, expected the folder of a store: name one")
        if is_url(path := local_place(path)):
            raise ValueError(f"got {path}, expected a folder of this machine: name the store's")
        self.path = Path(path)
        # The header is written last: without it the store was never whole, and is made again.
        if not (self.path / HEADER).exists():
            if (self.path / OLD_FILE).exists():
                raise ValueError(
                    f"got an LMDB store {self.path / OLD_FILE}, expected a store with {HEADER}: "
                    "name a new folder and parametrize the documents again, or export the adapters "
                    "with the version of this package that wrote it and import them"
                )
            if readonly is not False:
                raise FileNotFoundError(
                    f"got no store at {self.path}, expected a folder with {HEADER}: check the "
                    "path, or make it with `prag parametrize`"
                )
            _create(self.path)
        self._header = _require_format(self.path)
        self._index = StoreIndex(self.path, readonly)
        self.readonly = self._index.readonly
        self._damaged: set[tuple[str, str]] = set()  # records that a warning has named

    def put(self, key: str, adapter: Adapter) -> None:
        """Write one adapter durably; replaces what the key had. `put_many` is faster for many."""
        self.put_many([(key, adapter)])

    def put_many(
        self, items: Mapping[str, Adapter] | Iterable[tuple[str, Adapter]], pack: bool | None = None
    ) -> None:
        """Write adapters in one transaction: all or none. They are held in memory until then.

        Args:
            items: adapters by key.
            pack: write packs (True) or a folder each (False); None packs `PACK_FROM` or more
                adapters of at most `SMALL` bytes each, and int8, which PEFT's files do not have.
                Rows that adapters share are in every folder; beside packs once, if many.

        Raises:
            OSError: disk full, or the store is read-only; what was there is kept.
            ValueError: an empty key.
        """
        items = dict(items)  # of a key that comes twice the last counts
        if "" in items:
            raise ValueError("got an empty key, expected one of a letter or more: use adapter_key")
        if not items:
            return
        # A folder takes four files and so at least 16 KB of disk, much for an adapter of 8 KB.
        if pack is None:
            largest = max(adapter.stored_bytes for adapter in items.values())
            pack = len(items) >= PACK_FROM and largest <= SMALL
            pack |= any(adapter.spec.dtype == INT8 for adapter in items.values())
        with store_changes.scratch_folder(self._index) as scratch:
            entries = [(store_places.make_row(key, x), x) for key, x in items.items()]
            if pack:
                if self._header == OLDER:  # older programs would read packs without shared rows
                    write_json(self.path / HEADER, FORMAT)
                    self._header = FORMAT
                values = (store_places.part_shared(scratch, *entry) for entry in entries)
                staged = [row for rows in store_places.stage_packs(scratch, values) for row in rows]
            else:
                staged = [store_places.stage_folder(scratch, *entry) for entry in entries]
            store_changes.publish(self._index, scratch, staged)

    def get(self, key: str) -> Adapter:
        """Read one adapter and check it.

        Args:
            key: what it was put under.

        Raises:
            UnknownKeyError: no such key (a KeyError).
            DamagedError: files that are gone, or not as they were written (a ValueError).
            OSError: files that cannot be read, which says nothing of them (see `raise_failure`).
        """
        row = self._row(key)
        try:
            return store_places.load_adapter(self.path, row)
        except (OSError, ValueError) as error:
            raise_failure(error, self.path / row.place)
            if isinstance(error, FileNotFoundError) and self._row(key).place != row.place:
                return self.get(key)  # replaced and swept since its row was read
            text = store_places.damage(self.path, row, error)
            raise DamagedError(key, f"adapter {key!r}: {text}") from error

    def weights_path(self, key: str) -> Path | None:
        """Return the file with an adapter's weights; None where it lies in a pack, or remote."""
        row = self._row(key)
        if row.start != store_places.IN_FOLDER or is_url(row.place):
            return None
        return self.path / row.place / WEIGHTS

    def has(self, key: str) -> bool:
        """Say whether the key is there."""
        return bool(self._index.rows("SELECT 1 FROM adapters WHERE key = ?", key))

    __contains__ = has

    def delete(self, key: str) -> bool:
        """Remove an adapter; say whether it was there. Its files go with a later `sweep`."""
        return self.delete_many([key]) == 1

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove adapters in one transaction; return how many were there."""
        keys = list(keys)
        return store_changes.delete_rows(self._index, keys) if keys else 0

    def __len__(self) -> int:
        """Number of adapters."""
        return int(self._index.rows("SELECT count(*) FROM adapters")[0][0])

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys in order; what others write meanwhile may or may not come."""
        return (key for (key,) in self._index.scan("SELECT key FROM adapters WHERE", prefix))

    __iter__ = keys

    def rows(self, prefix: str = "") -> Iterator[Row]:
        """Iterate over what the index has of the adapters whose keys begin with a prefix."""
        return self._index.scan_adapters(prefix)

    def items(self) -> Iterator[tuple[str, Adapter]]:
        """Iterate over (key, adapter) in order of keys; raises as `get`."""
        for key in self.keys():
            with suppress(UnknownKeyError):  # deleted since its key was read
                yield key, self.get(key)

    def absorb(self, folder: Path, prefix: str) -> None:
        """Copy the rows and records of another store's index; its adapters stay in their places.

        Args:
            folder: with the index.
            prefix: path or url of the other store, which ends with a slash.
        """
        self._index.absorb(folder / INDEX, prefix)

    def replace_all(self, folder: Path) -> None:
        """Take the rows and records of another store's index for all that are here.

        One transaction: who reads meanwhile, from an opening of their own, sees all that was here
        or all that comes. Files stay where they are.

        Args:
            folder: with the index; places in it count as they are.
        """
        # Before the transaction: SQLite attaches nothing within one. For reading, so that the
        # commit is one of a single file.
        other = f"{(folder / INDEX).absolute().as_uri()}?mode=ro"
        self._index.rows("ATTACH ? AS other", other)
        try:
            with self._index.writing() as connection:
                for table in ("adapters", "records", "specs"):
                    connection.execute(f"DELETE FROM main.{table}")
                    connection.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table}")
        finally:
            self._index.rows("DETACH other")

    def version(self) -> int:
        """Return a number that changes when others, not this opening, have changed the store."""
        return int(self._index.rows("PRAGMA data_version")[0][0])

    def verify(self) -> list[str]:
        """Read everything; return a line for each file or record that is not as it was written.

        Raises:
            OSError: files that cannot be read, which says nothing of them (see `raise_failure`).
        """
        lines = list(store_changes.damage(self._index))
        for (kind,) in self._index.rows("SELECT DISTINCT kind FROM records"):
            for key, text, checksum in self._index.scan(RECORDS, "", kind):
                if _checksum(kind, key, text) != checksum:
                    lines.append(self._damage(kind, key))
        return lines

    def paths(self, base_model: str) -> list[str]:
        """Return who made the adapters of a base model (`trained`, `generated`, ...), by name."""
        query = """SELECT DISTINCT json_extract(metadata, '$.path') AS path FROM adapters
            JOIN specs ON hash = adapters.spec
            WHERE json_extract(specs.spec, '$.base_model') = ? AND path != '' ORDER BY path"""
        return [path for (path,) in self._index.rows(query, base_model)]

    def documents_without_adapter(self) -> list[str]:
        """Return the ids of the documents kept here that have no adapter of any parametrizer."""
        query = "SELECT key FROM records WHERE kind = 'document' AND key NOT IN "
        query += "(SELECT document FROM adapters) ORDER BY key"
        return [key for (key,) in self._index.rows(query)]

    def stats(self) -> dict[str, int]:
        """Return count, bytes (of the adapters), records, and file_bytes (on disk)."""
        count, size = self._index.rows("SELECT count(*), ifnull(sum(bytes), 0) FROM adapters")[0]
        records = self._index.rows("SELECT count(*) FROM records")[0][0]
        file_bytes = store_changes.disk_bytes(self.path)
        return {"count": count, "bytes": size, "records": records, "file_bytes": file_bytes}

    def sweep(self, grace: float = GRACE) -> int:
        """Remove what was deleted, replaced or never finished; return the bytes that it took.

        Half-empty packs are packed again; what that leaves unused is removed by a later sweep.

        Args:
            grace: seconds that it must have lain unused. 0 is safe where no one else writes.
        """
        return store_changes.sweep(self._index, grace)

    def put_record(self, kind: str, key: str, record: Mapping[str, Any]) -> None:
        """Write a JSON record beside the adapters, e.g. an augmentation; replaces what was there.

        Raises:
            ValueError: not JSON, or an empty kind or key.
        """
        self.put_records(kind, {key: record})

    def put_records(self, kind: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write records of one kind in one transaction: all or none."""
        rows = []
        for key, record in records.items():
            _require_record_name(kind, key)
            try:
                text = json.dumps(record, ensure_ascii=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"got record {kind}/{key} that is not JSON ({error}), expected a dict of "
                    "strings, numbers, lists and dicts: convert its values"
                ) from error
            rows.append((kind, key, text, _checksum(kind, key, text.encode())))
        if rows:
            with self._index.writing() as connection:
                connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)

    def get_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Read a record; None where there is none."""
        rows = self._index.rows(f"{RECORDS} key = ?", kind, key)
        return next((record for _, record in self._sound(kind, rows)), None)

    def delete_record(self, kind: str, key: str) -> bool:
        """Remove a record; say whether it was there."""
        with self._index.writing() as connection:
            query = "DELETE FROM records WHERE kind = ? AND key = ?"
            return connection.execute(query, (kind, key)).rowcount == 1

    def records(self, kind: str, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (key, record) of one kind in order of keys, those that begin with prefix."""
        return self._sound(kind, self._index.scan(RECORDS, prefix, kind))

    def record_keys(self, kind: str, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys of one kind in order, without reading the records."""
        query = "SELECT key FROM records WHERE kind = ? AND"
        return (key for (key,) in self._index.scan(query, prefix, kind))

    def record_checksums(self, kind: str) -> dict[str, int]:
        """Return a number of every record of one kind that changes with what it says."""
        query = "SELECT key, checksum FROM records WHERE kind = ? AND"
        return dict(self._index.scan(query, "", kind))

    def close(self) -> None:
        """Close the store; a second call does nothing."""
        self._index.close()

    def __enter__(self) -> AdapterStore:
        """Return the open store."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the store."""
        self.close()

    def _sound(
        self, kind: str, rows: Iterable[tuple[str, bytes, int]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records that are as they were written; a warning names each other one once."""
        for key, text, checksum in rows:
            if _checksum(kind, key, text) == checksum:
                yield key, json.loads(text)
            elif (kind, key) not in self._damaged:
                self._damaged.add((kind, key))
                log.warning("%s: left out", self._damage(kind, key))

    def _damage(self, kind: str, key: str) -> str:
        remedy = "nothing, it is made again when it is needed"
        if kind == "document":
            remedy = (
                f"parametrize the document again, or remove it with its adapters (`prag store "
                f"forget --path {self.path} --key {key}`)"
            )
        problem = f"record {kind}/{key}: got damaged bytes in {INDEX}"
        return f"{problem}, expected what was written: {remedy}"

    def _row(self, key: str) -> Row:
        for row in self._index.adapters("key = ?", key):
            return row
        raise UnknownKeyError(
            f"got key {key!r}, expected one of the {len(self)} in {self.path}: "
            "parametrize the document first"
        )


def reindex(path: str | Path) -> int:
    """Rebuild the index of a store from its folders; returns the number of adapters.

    Where a key is there several times, the newest counts. An adapter that was deleted from a pack
    comes back until `sweep` has packed the rest again. An index that SQLite cannot use is set aside
    as `index.sqlite.damaged`, its records with it.

    Raises:
        FileNotFoundError: no store there.
        ValueError: a note or a pack that cannot be read.
    """
    path = Path(path)
    if not (path / HEADER).exists():
        AdapterStore(path, readonly=True)  # says what is wrong
    index = StoreIndex(path, readonly=False)
    try:
        index.create()
        sound = index.rows("PRAGMA quick_check") == [("ok",)]
    except ValueError:
        sound = False
    index.close()
    if not sound:  # kept for whoever can still read records from it
        os.replace(index.path, path / f"{INDEX}.damaged")
    with closing(StoreIndex(path, readonly=False)) as index:
        index.create()
        return store_changes.reindex(index)


def _create(path: Path) -> None:
    """Make folder, index and, last, the header; two processes may do so at once."""
    with clear_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        StoreIndex(path, readonly=False).create()
        write_json(path / HEADER, FORMAT)


def _require_format(path: Path) -> object:
    """Return the header of a store; ValueError where it is not one that can be read."""
    header: object = (path / HEADER).read_text("utf-8", "backslashreplace")
    with suppress(ValueError):  # a text that is no JSON is named as it is
        header = json.loads(str(header))
    if header not in (FORMAT, OLDER):
        raise ValueError(
            f"got {path / HEADER} of format {header}, expected {FORMAT}: name another folder, or "
            "use the version of this package that wrote it"
        )
    if not (path / INDEX).exists():
        raise ValueError(
            f"got a store without {path / INDEX}, expected one: rebuild it with "
            "`prag store reindex`"
        )
    return header


def _require_record_name(kind: str, key: str) -> None:
    if not kind or "\0" in kind or not key:
        raise ValueError(
            f"got record {kind!r}/{key!r}, expected a kind (without NUL) and a key that are not "
            "empty: name the kind of record, e.g. 'augmentation'"
        )


def _checksum(kind: str, key: str, text: bytes) -> int:
    """CRC-32 of a record and its name, so that one under a wrong name is found too."""
    return zlib.crc32(f"{kind}\0{key}\0".encode() + text)
