"""Where adapters lie in a store: entries go in and become folders or packs, and come out again.

    adapters/3f/3f9c.../   one adapter: stock PEFT, its memory, and prag_adapter.json (its row)
    packs/5a07....safetensors   many adapters: every tensor of the file is one adapter, as bytes

The name of either is the hash of what it holds, and neither changes afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.adapters.durable import write_files
from prag_core.adapters.peft_files import (
    CONFIG,
    MEMORY,
    NOTE,
    WEIGHTS,
    adapter_files,
    json_bytes,
    read_adapter,
)

FOLDERS, PACKS, SCRATCH = "adapters", "packs", "tmp"
PACK_SUFFIX = ".safetensors"
SLICE = "pack"  # what the checksum of an adapter in a pack is called
IN_FOLDER = -1  # start of an adapter that is not in a pack


@dataclass(frozen=True)
class Row:
    """What the index knows of one adapter; see the table in `store_index`."""

    key: str
    document: str
    spec: str
    metadata: str
    place: str
    start: int
    bytes: int
    checksums: str

    @property
    def note(self) -> dict[str, Any]:
        """The row for `prag_adapter.json`, but for the place, which the folder says itself."""
        return {
            "key": self.key,
            "document": self.document,
            "spec": json.loads(self.spec),
            "metadata": json.loads(self.metadata),
            "bytes": self.bytes,
            "checksums": json.loads(self.checksums),
        }


COLUMNS = tuple(field.name for field in fields(Row))


def make_row(key: str, adapter: Adapter) -> Row:
    """Describe an adapter that has no place yet."""
    document = adapter.metadata.get("document_id") or key.partition("-")[0]
    spec, metadata = _json(asdict(adapter.spec)), _json(dict(adapter.metadata))
    return Row(key, document, spec, metadata, "", IN_FOLDER, 0, "{}")


def stage_folder(scratch: Path, row: Row, adapter: Adapter) -> Row:
    """Write an adapter's folder into the scratch folder; returns its row with the place to come."""
    files = adapter_files(adapter, adapter.spec.base_model)
    checksums = {name: zlib.crc32(content) for name, content in files.items()}
    size = sum(len(content) for name, content in files.items() if name != CONFIG)
    row = replace(row, bytes=size, checksums=_json(checksums))
    # The note is hashed too: two keys with equal tensors have a folder each, and so one owner.
    files[NOTE] = json_bytes(row.note)
    name = _hash(*(files[name] for name in sorted(files)))
    write_files(scratch / name, files)
    return replace(row, place=f"{FOLDERS}/{name[:2]}/{name}")


def stage_pack(scratch: Path, rows: Sequence[Row], values: Sequence[bytes]) -> list[Row]:
    """Write adapters as one pack into the scratch folder.

    Args:
        scratch: where.
        rows: of the adapters; they come back with the place to come.
        values: what `Adapter.to_bytes` gave for each.
    """
    header: dict[str, dict[str, Any]] = {}
    start = 0
    for row, value in zip(rows, values, strict=True):
        stop = start + len(value)
        header[row.key] = {"dtype": "U8", "shape": [len(value)], "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns its data to eight bytes
    # Written by hand: safetensors' own writer would sort the adapters and hide their offsets.
    content = b"".join([len(text).to_bytes(8, "little"), text, *values])
    name = _hash(content) + PACK_SUFFIX
    (scratch / name).write_bytes(content)
    return [
        replace(
            row,
            place=f"{PACKS}/{name}",
            start=8 + len(text) + header[row.key]["data_offsets"][0],
            bytes=len(value),
            checksums=_json({SLICE: zlib.crc32(value)}),
        )
        for row, value in zip(rows, values, strict=True)
    ]


def load_adapter(store: Path, row: Row) -> Adapter:
    """Read the adapter of a row and check it.

    Raises:
        FileNotFoundError: its folder or pack is gone.
        ValueError: damaged bytes.
    """
    if row.start != IN_FOLDER:
        return Adapter.from_bytes(read_slice(store, row))
    # The row says spec and metadata, so that a get opens one file, or two.
    names = [name for name in json.loads(row.checksums) if name in (WEIGHTS, MEMORY)]
    files = {name: read_file(store, row, name) for name in names}
    return read_adapter(files, _spec(row.spec), json.loads(row.metadata))


def read_file(store: Path, row: Row, name: str) -> bytes:
    """Read one file of an adapter's folder; raises as `load_adapter`."""
    path = store / row.place / name
    return _require_sound(row, name, path.read_bytes(), path)


def read_slice(store: Path, row: Row) -> bytes:
    """Read one adapter's bytes from its pack; raises as `load_adapter`."""
    path = store / row.place
    with path.open("rb") as file:
        value = os.pread(file.fileno(), row.bytes, row.start)
    return _require_sound(row, SLICE, value, path)


def rows_on_disk(store: Path) -> Iterator[Row]:
    """Read all rows from what lies in the folders, the oldest first.

    Raises:
        ValueError: a note or a pack that cannot be read.
    """
    notes = [(path.stat().st_mtime_ns, path) for path in (store / FOLDERS).glob(f"*/*/{NOTE}")]
    packs = [(path.stat().st_mtime_ns, path) for path in (store / PACKS).glob(f"*{PACK_SUFFIX}")]
    for _, path in sorted(notes + packs):
        try:
            yield from [_row_of_note(store, path)] if path.name == NOTE else _rows_of_pack(path)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"got {path} that cannot be read ({error}), expected what the store wrote: restore "
                "it from a backup, or move it away and parametrize its documents again"
            ) from error


def _row_of_note(store: Path, path: Path) -> Row:
    note = json.loads(path.read_bytes())
    texts = {name: _json(note[name]) for name in ("spec", "metadata", "checksums")}
    place = path.parent.relative_to(store).as_posix()
    return Row(**{**note, **texts}, place=place, start=IN_FOLDER)


def _rows_of_pack(path: Path) -> Iterator[Row]:
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    for key, entry in json.loads(content[8:size]).items():
        start, stop = (size + offset for offset in entry["data_offsets"])
        value = content[start:stop]
        row = make_row(key, Adapter.from_bytes(value))
        checksums = _json({SLICE: zlib.crc32(value)})
        yield replace(row, place=f"{PACKS}/{path.name}", start=start, bytes=len(value),
                      checksums=checksums)  # fmt: skip


def _require_sound(row: Row, name: str, content: bytes, path: Path) -> bytes:
    if zlib.crc32(content) != json.loads(row.checksums)[name]:
        raise ValueError(
            f"got damaged bytes for {row.key!r} in {path}, expected those that were written: "
            "delete the key and parametrize the document again"
        )
    return content


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@lru_cache(64)
def _spec(text: str) -> AdapterSpec:
    stored = json.loads(text)
    tuples = {name: tuple(stored[name]) for name in ("modules", "layers")}
    return AdapterSpec(**{**stored, **tuples})
