"""Segments: values of a few KB go into one LMDB file, packed; each comes out by its name.

LMDB gives every value above 2 KB its own run of 4 KiB pages, which wastes up to a third of a
small adapter. Here one `put` packs its values, end to end, into segments of about 1 MiB, so that
what is lost is one partial page a segment and about 150 bytes of index a value.

Databases of the file:
    index      name -> segment number, offset, length, CRC-32 of name and value
    segments   segment number -> values, end to end
    live       segment number -> how many of its values are still in the index

A segment is freed with its last live value; compacting the store packs single puts together.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

import lmdb

from prag_core.adapters.lmdb_file import LmdbFile

SEGMENT_DATABASES = ("index", "segments", "live")
ENTRY = struct.Struct(">QIII")  # segment number, offset, length, CRC-32
NUMBER = struct.Struct(">Q")
COUNT = struct.Struct(">I")
SEGMENT_BYTES = 1 << 20


class Segments:
    """Packed values by name, with checksums, in the databases of an open `LmdbFile`."""

    def __init__(self, file: LmdbFile) -> None:
        """Work on this file, which has `SEGMENT_DATABASES`."""
        self._file = file

    def _handle(self, name: str):
        return self._file.databases[name]  # not kept: handles change when the file is compacted

    def get(self, name: bytes) -> bytes | None:
        """Read a value; None where there is none. Raises ValueError on damaged bytes."""
        with self._file.reading() as transaction:
            entry = transaction.get(name, db=self._handle("index"))
            if entry is None:
                return None
            number, offset, length, expected = ENTRY.unpack(entry)
            segment = transaction.get(NUMBER.pack(number), b"", db=self._handle("segments"))
            value = bytes(segment[offset : offset + length])
        if len(value) != length or checksum(name, value) != expected:
            raise ValueError(
                f"got damaged bytes for {name.decode()!r} in {self._file.path}, expected {length} "
                "bytes with the checksum they were written with: delete the key and parametrize "
                "the document again"
            )
        return value

    def has(self, name: bytes) -> bool:
        """Say whether the name is there."""
        with self._file.reading() as transaction:
            return transaction.get(name, db=self._handle("index")) is not None

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Write values in one transaction; replaces what the names had."""
        groups = list(_groups(values))

        def change(transaction: lmdb.Transaction) -> None:
            for names in groups:
                self._put_segment(transaction, {name: values[name] for name in names})

        self._file.write(change)

    def delete(self, name: bytes) -> bool:
        """Remove a value; say whether it was there."""
        return self._file.write(lambda transaction: self._forget(transaction, name), frees=True)

    def _put_segment(self, transaction: lmdb.Transaction, values: Mapping[bytes, bytes]) -> None:
        with transaction.cursor(self._handle("segments")) as cursor:
            number = NUMBER.unpack(cursor.key())[0] + 1 if cursor.last() else 0
        transaction.put(NUMBER.pack(number), b"".join(values.values()), db=self._handle("segments"))
        transaction.put(NUMBER.pack(number), COUNT.pack(len(values)), db=self._handle("live"))
        offset = 0
        for name, value in values.items():
            self._forget(transaction, name)
            entry = ENTRY.pack(number, offset, len(value), checksum(name, value))
            transaction.put(name, entry, db=self._handle("index"))
            offset += len(value)

    def _forget(self, transaction: lmdb.Transaction, name: bytes) -> bool:
        """Take a name out of the index, and its segment away with the last name in it."""
        entry = transaction.pop(name, db=self._handle("index"))
        if entry is None:
            return False
        number = entry[: NUMBER.size]
        (live,) = COUNT.unpack(transaction.get(number, db=self._handle("live")))
        if live > 1:
            transaction.put(number, COUNT.pack(live - 1), db=self._handle("live"))
        else:
            transaction.delete(number, db=self._handle("live"))
            transaction.delete(number, db=self._handle("segments"))
        return True


def checksum(name: bytes, value: bytes) -> int:
    """CRC-32 of name and value, so that a value under a wrong name is found too."""
    return zlib.crc32(value, zlib.crc32(name))


def entry_length(entry: bytes) -> int:
    """Return the number of bytes of the value that an index entry points to."""
    return ENTRY.unpack(entry)[2]


def _groups(values: Mapping[bytes, bytes]) -> Iterator[list[bytes]]:
    """Group names in order, so that each group's values make about one segment."""
    names, size = [], 0
    for name, value in values.items():
        if names and size + len(value) > SEGMENT_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += len(value)
    if names:
        yield names
