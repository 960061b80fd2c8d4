"""AdapterStore: adapters go in under their keys and come out again, from one LMDB file.

Adapters are packed into segments (see `segments`), under 3 % over their raw bytes from 8 KB up.
Beside them lie JSON records, by kind and key, e.g. augmentations and documents. Every change is one
LMDB transaction, so a crash loses at most the one in flight.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.adapters.lmdb_file import SCAN_ROWS, LmdbFile
from prag_core.adapters.segments import SEGMENT_DATABASES, Segments, checksum, entry_length

FORMAT = {"format": "prag-adapters", "version": 1}
DATABASES = (*SEGMENT_DATABASES, "records")
COMPACT_BYTES = 1 << 25  # bytes held in memory, and written in one transaction, by compact
CHECKSUM = struct.Struct(">I")  # CRC-32 before a record's JSON
MAX_KEY_BYTES = 511  # LMDB's limit


class UnknownKeyError(KeyError):
    """No adapter under this key."""

    def __str__(self) -> str:
        """Give the message as it is (KeyError would quote it)."""
        return str(self.args[0])


class AdapterStore:
    """Adapters by key: many reader processes, one writer at a time (another one waits)."""

    def __init__(
        self,
        path: str | Path,
        readonly: bool = False,
        map_size: int = 1 << 26,
        max_bytes: int | None = None,
    ) -> None:
        """Open a store; create it unless `readonly`.

        Args:
            path: folder of the store.
            readonly: refuse every change; works on a folder that cannot be written.
            map_size: bytes of address space to start with; it doubles when it is full.
            max_bytes: quota of the file in bytes; None for as much as the disk holds.

        Raises:
            FileNotFoundError: `readonly`, and there is no store.
            OSError: the folder cannot be written, or the disk is full.
            ValueError: a foreign or truncated file, or one of another format version.
        """
        self.path = Path(path)
        self._file = LmdbFile(self.path, DATABASES, FORMAT, readonly, map_size, max_bytes)
        self._segments = Segments(self._file)

    def put(self, key: str, adapter: Adapter) -> None:
        """Write one adapter durably; replaces what the key had. `put_many` is smaller, faster."""
        self.put_many([(key, adapter)])

    def put_many(self, items: Mapping[str, Adapter] | Iterable[tuple[str, Adapter]]) -> None:
        """Write adapters in one transaction: all or none. They are held in memory until then.

        Raises:
            OSError: disk full or quota reached; what was there is kept.
            ValueError: an empty or too long key.
        """
        pairs = items.items() if isinstance(items, Mapping) else items
        self._segments.put({_key_bytes(key): adapter.to_bytes() for key, adapter in pairs})

    def get(self, key: str, expect: AdapterSpec | None = None) -> Adapter:
        """Read one adapter and check it.

        Args:
            key: what it was put under.
            expect: refuse an adapter of another base model or spec.

        Raises:
            UnknownKeyError: no such key (a KeyError).
            ValueError: damaged bytes, or not of the expected spec.
        """
        value = self.get_bytes(key)
        try:
            adapter = Adapter.from_bytes(value)
        except ValueError as error:
            raise ValueError(f"adapter {key!r}: {error}") from error
        if expect is not None:
            _require_spec(key, adapter.spec, expect)
        return adapter

    def get_bytes(self, key: str) -> bytes:
        """Read an adapter's safetensors bytes and check their checksum; raises as `get`."""
        value = self._segments.get(_key_bytes(key))
        if value is None:
            raise UnknownKeyError(
                f"got key {key!r}, expected one of the {len(self)} in {self.path}: "
                "parametrize the document first"
            )
        return value

    def has(self, key: str) -> bool:
        """Say whether the key is there."""
        return self._segments.has(_key_bytes(key))

    __contains__ = has

    def delete(self, key: str) -> bool:
        """Remove an adapter; say whether it was there."""
        return self._segments.delete(_key_bytes(key))

    def __len__(self) -> int:
        """Number of adapters."""
        with self._file.reading() as transaction:
            return transaction.stat(self._file.databases["index"])["entries"]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys in order; what others write meanwhile may or may not come."""
        return (name.decode() for name, _ in self._file.scan("index", prefix.encode()))

    __iter__ = keys

    def items(self) -> Iterator[tuple[str, Adapter]]:
        """Iterate over (key, adapter) in order of keys; raises as `get`."""
        for key in self.keys():
            try:
                yield key, self.get(key)
            except UnknownKeyError:  # deleted since its key was read
                continue

    def verify(self) -> list[str]:
        """Read everything; return the keys whose bytes are damaged (records as `kind/key`)."""
        bad = []
        for key in self.keys():
            try:
                self.get(key)
            except UnknownKeyError:
                continue
            except ValueError:
                bad.append(key)
        for name, value in self._file.scan("records"):
            try:
                _read_record(name, value)
            except ValueError:
                bad.append(name.decode().replace("\0", "/"))
        return bad

    def stats(self) -> dict[str, int]:
        """Return count, bytes (of the adapters), records, and file_bytes (on disk)."""
        size = sum(entry_length(entry) for _, entry in self._file.scan("index"))
        with self._file.reading() as transaction:
            records = transaction.stat(self._file.databases["records"])["entries"]
        file_bytes = self._file.path.stat().st_size
        return {"count": len(self), "bytes": size, "records": records, "file_bytes": file_bytes}

    def compact(self) -> None:
        """Rewrite the store without dead bytes; the old file stays until the new one is complete.

        Raises:
            ValueError: a damaged adapter (named), or another process has the store open.
        """
        with self._file.replacing() as replace:
            scratch = Path(tempfile.mkdtemp(prefix=".compact-", dir=self.path))
            try:
                with AdapterStore(scratch) as smaller:
                    self._copy_to(smaller)
                replace(scratch / "data.mdb")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def put_record(self, kind: str, key: str, record: dict) -> None:
        """Write a JSON record beside the adapters, e.g. an augmentation; replaces what was there.

        Raises:
            ValueError: not JSON, or an empty or too long kind or key.
        """
        self.put_records(kind, {key: record})

    def put_records(self, kind: str, records: Mapping[str, dict]) -> None:
        """Write records of one kind in one transaction: all or none."""
        rows = {}
        for key, record in records.items():
            name = _record_bytes(kind, key)
            try:
                text = json.dumps(record, ensure_ascii=False).encode()
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"got record {kind}/{key} that is not JSON ({error}), expected a dict of "
                    "strings, numbers, lists and dicts: convert its values"
                ) from error
            rows[name] = CHECKSUM.pack(checksum(name, text)) + text
        self._put_record_rows(rows)

    def get_record(self, kind: str, key: str) -> dict | None:
        """Read a record; None where there is none. Raises ValueError on damaged bytes."""
        name = _record_bytes(kind, key)
        with self._file.reading() as transaction:
            value = transaction.get(name, db=self._file.databases["records"])
            return None if value is None else _read_record(name, bytes(value))

    def delete_record(self, kind: str, key: str) -> bool:
        """Remove a record; say whether it was there."""
        name, database = _record_bytes(kind, key), self._file.databases["records"]
        return self._file.write(lambda t: t.delete(name, db=database), frees=True)

    def records(self, kind: str, prefix: str = "") -> Iterator[tuple[str, dict]]:
        """Iterate over (key, record) of one kind in order of keys, those that begin with prefix."""
        start = len(kind.encode()) + 1
        for name, value in self._file.scan("records", f"{kind}\0{prefix}".encode()):
            yield name[start:].decode(), _read_record(name, value)

    def close(self) -> None:
        """Close the store; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> AdapterStore:
        """Return the open store."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the store."""
        self.close()

    def _put_record_rows(self, rows: Mapping[bytes, bytes]) -> None:
        def change(transaction) -> None:
            for name, value in rows.items():
                transaction.put(name, value, db=self._file.databases["records"])

        self._file.write(change)

    def _copy_to(self, other: AdapterStore) -> None:
        values, size = {}, 0
        for key in self.keys():
            value = values[_key_bytes(key)] = self.get_bytes(key)
            size += len(value)
            if size >= COMPACT_BYTES:
                other._segments.put(values)
                values, size = {}, 0
        other._segments.put(values)
        rows = self._file.scan("records")
        while batch := dict(islice(rows, SCAN_ROWS)):
            for name, value in batch.items():
                _read_record(name, value)
            other._put_record_rows(batch)


def _key_bytes(key: str) -> bytes:
    name = key.encode()
    if not 0 < len(name) <= MAX_KEY_BYTES:
        raise ValueError(
            f"got a key of {len(name)} bytes, expected 1 to {MAX_KEY_BYTES}: use adapter_key, or "
            "hash long names"
        )
    return name


def _record_bytes(kind: str, key: str) -> bytes:
    if not kind or "\0" in kind or not key:
        raise ValueError(
            f"got record {kind!r}/{key!r}, expected a kind (without NUL) and a key that are not "
            "empty: name the kind of record, e.g. 'augmentation'"
        )
    return _key_bytes(f"{kind}\0{key}")


def _read_record(name: bytes, value: bytes) -> dict:
    text = value[CHECKSUM.size :]
    if value[: CHECKSUM.size] != CHECKSUM.pack(checksum(name, text)):
        shown = name.decode().replace("\0", "/")
        raise ValueError(
            f"got damaged bytes for record {shown}, expected those that were written: delete the "
            "record and make it again"
        )
    return json.loads(text)


def _require_spec(key: str, found: AdapterSpec, expected: AdapterSpec) -> None:
    found.require_base(expected.base_model)
    differ = [
        f"{field.name} {getattr(found, field.name)} (expected {getattr(expected, field.name)})"
        for field in fields(AdapterSpec)
        if getattr(found, field.name) != getattr(expected, field.name)
    ]
    if differ:
        raise ValueError(
            f"got adapter {key!r} of another spec: {', '.join(differ)}: use the settings it was "
            "made with, or parametrize the document again"
        )
