"""Where adapters lie in a store: entries go in and become folders or packs, and come out again.

    adapters/3f/3f9c.../   one adapter: stock PEFT, its memory, and prag_adapter.json (its row)
    packs/5a07....safetensors   many adapters: every tensor of the file is one adapter, as bytes
    packs/88c1....shared   the rows that adapters of packs share, once, as an adapter's bytes

The name of each is the hash of what it holds, and none changes afterwards. An empty file
packs/5a07....safetensors.retired stands beside a pack that no row names any more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import save
from safetensors.torch import load

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.adapters.peft_files import CONFIG, NOTE, adapter_files, json_bytes
from prag_core.adapters.remote import read_url
from prag_core.adapters.store_index import Row
from prag_core.files import is_url

FOLDERS, PACKS, SCRATCH = "adapters", "packs", "tmp"
PATTERNS = f"{FOLDERS}/*/*", f"{PACKS}/*", f"{SCRATCH}/*"  # of all that lies there
PACK_SUFFIX = ".safetensors"
RETIRED = ".retired"  # behind a pack's name: an empty file, since when no row names the pack
PACK_ROWS = 1024  # adapters of a full pack
PACK_BYTES = 1 << 26  # of one pack
SLICE = "pack"  # what the checksum of an adapter in a pack is called
SHARED = "shared_rows"  # in the metadata of an adapter in a pack: the file of its shared rows
SHARED_SUFFIX = ".shared"
IN_FOLDER = -1  # start of an adapter that is not in a pack
T = TypeVar("T")
log = logging.getLogger(__name__)


def runs(
    items: Iterable[T], size: Callable[[T], int], most: int, most_size: int
) -> Iterator[list[T]]:
    """Cut items into runs of at most `most` and, unless one alone has more, `most_size`.

    Args:
        items: read as their runs are.
        size: of an item.
        most: items.
        most_size: sum of the sizes.
    """
    run, total = list[T](), 0
    for item in items:
        if run and (len(run) == most or total + size(item) > most_size):
            yield run
            run, total = [], 0
        run.append(item)
        total += size(item)
    if run:
        yield run


def make_row(key: str, adapter: Adapter) -> Row:
    """Describe an adapter that has no place yet."""
    document = adapter.metadata.get("document_id") or key.partition("-")[0]
    return Row(key, document, asdict(adapter.spec), dict(adapter.metadata), "", IN_FOLDER, 0, {})


def stage_folder(scratch: Path, row: Row, adapter: Adapter) -> Row:
    """Write an adapter's folder into the scratch folder; returns its row with the place to come."""
    files = adapter_files(adapter, adapter.spec.base_model)
    checksums = {name: zlib.crc32(content) for name, content in files.items()}
    size = sum(len(content) for name, content in files.items() if name != CONFIG)
    row = replace(row, bytes=size, checksums=checksums)
    # The note is hashed too: two keys with equal tensors have a folder each, and so one owner.
    files[NOTE] = json_bytes(row.note)
    name = _hash(*(files[name] for name in sorted(files)))
    (scratch / name).mkdir()
    for file, content in files.items():
        (scratch / name / file).write_bytes(content)
    return replace(row, place=f"{FOLDERS}/{name[:2]}/{name}")


def part_shared(scratch: Path, row: Row, adapter: Adapter) -> tuple[Row, bytes]:
    """Write the many rows that an adapter shares into the scratch folder, once, for a pack.

    Returns:
        The row, whose metadata names their file, and the bytes of the rest; of an adapter that
        shares few rows or none, the row as it was and all bytes.
    """
    if not adapter.shares_much:
        return row, adapter.to_bytes()
    content = replace(adapter.part("shared"), metadata={}).to_bytes()
    name = _hash(content) + SHARED_SUFFIX
    if not (scratch / name).exists():
        (scratch / name).write_bytes(content)
    row = replace(row, metadata={**row.metadata, SHARED: name})
    return row, replace(adapter.part("own"), metadata=row.metadata).to_bytes()


def shared_place(row: Row) -> str | None:
    """Return where the shared rows of an adapter in a pack lie; None where it has none apart."""
    name = row.metadata.get(SHARED)
    return f"{row.place.rpartition('/')[0]}/{name}" if name and row.start != IN_FOLDER else None


def stage_packs(scratch: Path, entries: Iterable[tuple[Row, bytes]]) -> Iterator[list[Row]]:
    """Write adapters as packs into the scratch folder; gives the rows of each, as it is written.

    Args:
        scratch: where.
        entries: rows that come back with the place to come, each with its bytes (`part_shared`).
    """
    packs = runs(entries, lambda entry: len(entry[1]), PACK_ROWS, PACK_BYTES)
    return map(partial(_stage_pack, scratch), packs)  # holds one pack at a time


def load_adapter(store: Path, row: Row) -> Adapter:
    """Read the adapter of a row and check it.

    Raises:
        FileNotFoundError: its folder or pack, or the file of its shared rows, is gone.
        ValueError: damaged bytes.
    """
    if row.start != IN_FOLDER:
        return _joined(store, row, Adapter.from_bytes(read_part(store, row, SLICE)))
    # The row says spec and metadata, so that a get opens one file, or two.
    names = [name for name in row.checksums if name != CONFIG]
    tensors = {n: t for name in names for n, t in load(read_part(store, row, name)).items()}
    return Adapter.from_tensors(tensors, AdapterSpec(**row.spec), row.metadata)


def read_part(store: Path, row: Row, name: str) -> bytes:
    """Read one file of an adapter's folder, or its slice of a pack; raises as `load_adapter`."""
    place = f"{row.place}/{name}" if row.start == IN_FOLDER else row.place
    return _sound(store, row, place, lambda content: zlib.crc32(content) == row.checksums[name])


def damage(store: Path, row: Row, error: Exception) -> str:
    """Say of an adapter that cannot be read what its error means, and the remedy."""
    problem = str(error)
    if isinstance(error, OSError) and error.filename:
        missing = isinstance(error, FileNotFoundError)
        problem = f"got {'no file' if missing else error.strerror} {error.filename}"
    remedy = (
        f"delete the key (`prag store delete --path {store} --key {row.key}`) and parametrize the "
        f"document again (`prag parametrize --store {store}`)"
    )
    if is_url(row.place) or Path(row.place).is_absolute():
        remedy = "remove this shard and write it again (`prag parametrize`, `prag store push`)"
    return f"{problem}, expected what was written: {remedy}"


def check_files(store: Path, row: Row) -> None:
    """Read all that was written for a row; raises as `load_adapter`."""
    for name in row.checksums:
        read_part(store, row, name)
    if row.start == IN_FOLDER:
        _sound(store, row, f"{row.place}/{NOTE}", lambda content: content == json_bytes(row.note))
    load_adapter(store, row)


def retired_file(pack: Path) -> Path:
    """Return where it is noted that no row names a pack."""
    return pack.with_name(pack.name + RETIRED)


def rows_on_disk(store: Path) -> Iterator[Row]:
    """Read all rows from what lies in the folders, the oldest first.

    Raises:
        ValueError: a note or a pack that cannot be read.
    """
    packs = (store / PACKS).glob(f"*{PACK_SUFFIX}")
    used = [path for path in packs if not retired_file(path).exists()]
    paths = [*(store / FOLDERS).glob(f"*/*/{NOTE}"), *used]
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
        try:
            content = path.read_bytes()
            if path.name == NOTE:
                place = path.parent.relative_to(store).as_posix()
                yield Row(**json.loads(content), place=place, start=IN_FOLDER)
                continue
            for key, (start, stop) in _slices(content).items():
                row = make_row(key, Adapter.from_bytes(content[start:stop]))
                yield _packed(row, path.name, content, start, stop)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"got {path} that cannot be read ({error}), expected what the store wrote: restore "
                "it from a backup, or move it away and parametrize its documents again"
            ) from error


def _joined(store: Path, row: Row, own: Adapter) -> Adapter:
    """Return an adapter with its shared rows, where a file beside its pack has them."""
    if not (place := shared_place(row)):
        return own
    whole = replace(row, start=IN_FOLDER)  # the file, where the row has a slice of its pack
    content = _sound(
        store, whole, place, lambda content: place.endswith(_hash(content) + SHARED_SUFFIX)
    )
    metadata = {name: text for name, text in own.metadata.items() if name != SHARED}
    return replace(own, metadata=metadata).with_shared(Adapter.from_bytes(content))


def _stage_pack(scratch: Path, entries: list[tuple[Row, bytes]]) -> list[Row]:
    content = save({row.key: np.frombuffer(value, np.uint8) for row, value in entries})
    name = _hash(content) + PACK_SUFFIX
    (scratch / name).write_bytes(content)
    slices = _slices(content)  # in the order of safetensors, which is not that of the rows
    return [_packed(row, name, content, *slices[row.key]) for row, _ in entries]


def _slices(content: bytes) -> dict[str, tuple[int, int]]:
    """Return first byte and end of every adapter of a pack, from its header."""
    size = 8 + int.from_bytes(content[:8], "little")
    offsets = {key: entry["data_offsets"] for key, entry in json.loads(content[8:size]).items()}
    return {key: (size + start, size + stop) for key, (start, stop) in offsets.items()}


def _packed(row: Row, name: str, content: bytes, start: int, stop: int) -> Row:
    checksums = {SLICE: zlib.crc32(content[start:stop])}
    place = f"{PACKS}/{name}"
    return replace(row, place=place, start=start, bytes=stop - start, checksums=checksums)


def _sound(store: Path, row: Row, place: str, is_sound: Callable[[bytes], bool]) -> bytes:
    """Read what a row names at a place; past a cache on this machine that has it otherwise."""
    content = _read(store, place, row.start, row.bytes)
    if is_sound(content):
        return content
    source = place.rpartition("::")[2] if is_url(place) else place
    if source != place and is_sound(content := _read(store, source, row.start, row.bytes)):
        # Such a copy is cut where a process was killed as it was fetched, and is used as it is.
        log.warning(
            "got a damaged local copy of %s, expected what lies there, which is read past it: "
            "delete the folder of the cache (FSSPEC_SIMPLECACHE_CACHE_STORAGE)", source
        )  # fmt: skip
        return content
    raise ValueError(
        f"got damaged bytes for {row.key!r} in {place if is_url(place) else store / place}"
    )


def _read(store: Path, place: str, start: int, size: int) -> bytes:
    """Read a file, or a slice of it; its place is below the store, or anywhere as a path or url."""
    if is_url(place):
        return read_url(place) if start == IN_FOLDER else read_url(place, start, start + size)
    with open(store / place, "rb", buffering=0) as file:  # not a byte of the neighbours
        if start == IN_FOLDER:
            return file.readall()
        file.seek(start)
        return file.read(size)


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
