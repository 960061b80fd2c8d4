"""Shards: stores of many writers go in, one store that reads them all comes out.

    PLACE/0-of-4/store.json, index.sqlite, packs/   a store, of one writer
          1-of-4/...
          tmp/                                      being written

PLACE is a folder, or a url of fsspec (s3://bucket/prefix), where index and packs of a shard are
objects. The rows of all shards are copied into one index in the cache, which says of each adapter
in which shard it lies; the adapters stay there. So a lookup costs the same however many shards
there are, nothing is written where the shards lie, and writers may add shards meanwhile: they are
seen when the place is opened again. Others may read the joint index while it is brought up to date:
a shard that is refused leaves it as it was, and what a changed or removed shard takes away goes in
one transaction with what stays. A shard counts from when its index is there, which is written last:
whoever dies before leaves nothing that is read.
"""

from __future__ import annotations

import glob
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from prag_core.adapters.adapter import Adapter, Parametrizer, adapter_key, fingerprint
from prag_core.adapters.durable import sync_folders
from prag_core.adapters.remote import clear_remote_errors, filesystem
from prag_core.adapters.store import HEADER, AdapterStore
from prag_core.adapters.store_index import INDEX, Row, StoreIndex
from prag_core.adapters.store_places import PACK_BYTES, PACK_ROWS, PACKS, SCRATCH, runs
from prag_core.files import cache_folder, is_url, local_place, locked

SHARD = "shard"  # kind of the records that say which state of which shard was copied
# Of a shard's adapters: the end of the last in each pack, and their kinds, which is what keys say
# beside the document, with their specs.
ENDS = "SELECT place, max(start + bytes) FROM adapters WHERE start >= 0 GROUP BY place"
KINDS = """SELECT DISTINCT substr(key, instr(key, '-') + 1), specs.spec FROM adapters
    JOIN specs ON hash = adapters.spec WHERE key NOT LIKE 'sft-%'"""
NUMBERED = re.compile(r"(\d+)-of-(\d+)")  # names of shards that are parts of a whole
logger = logging.getLogger(__name__)


def open_store(path: str | Path, create: bool = True) -> AdapterStore:
    """Open a store for writing where it can be written, else for reading.

    Args:
        path: folder of the store; or of shards, or their url, which are read as one store.
        create: make it where there is none.

    Raises:
        FileNotFoundError: nothing to read there.
        OSError: what cannot be read or reached.
        ValueError: no store, or shards that do not belong together.
    """
    path = local_place(path)
    if holds_shards(path):
        return open_shards(path)
    missing = create and not (Path(path) / HEADER).exists()
    return AdapterStore(path, readonly=False if missing else None)


def holds_shards(path: str | Path) -> bool:
    """Say whether a path is a url, or a folder that is no store but has some in it."""
    if is_url(path):
        return True
    folder = Path(path)
    return not (folder / HEADER).exists() and any(folder.glob(f"*/{HEADER}"))


def require_place(path: str | Path) -> None:
    """Raise ValueError where no shards can lie."""
    if not is_url(path) and (Path(path) / HEADER).exists():
        raise ValueError(
            f"got {path}, which is a store itself, expected a folder for shards: name a new one"
        )


def require_kind(place: AdapterStore, parametrizer: Parametrizer) -> None:
    """Raise ValueError where an opened place has adapters, and none of a parametrizer's kind."""
    key = adapter_key("", parametrizer.spec, parametrizer.fingerprint)
    kinds = _kinds([(key, asdict(parametrizer.spec))])
    _require_alike("a shard", kinds, _known_kinds(record for _, record in place.records(SHARD)))


def open_shards(path: str | Path, create: bool = False) -> AdapterStore:
    """Open all shards of a folder or url as one store that is read only.

    Args:
        path: of the shards.
        create: none there is an empty store; else an error.

    Raises:
        As `open_store`.
    """
    place = str(path).rstrip("/") if is_url(path) else str(Path(path).resolve())
    listing = _Listing.of(place)
    if not listing.indexes and not create:
        raise FileNotFoundError(
            f"got no store at {place}, expected {INDEX} in it or in folders below: check it, or "
            "write shards there with `prag parametrize` or `prag store push`"
        )
    folder = cache_folder() / "stores" / fingerprint(place)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), AdapterStore(folder) as joint:
        _update(joint, listing)
    _warn_of_missing(place, listing.indexes)
    return AdapterStore(folder, readonly=True)


def write_shard(
    path: str | Path,
    adapters: Mapping[str, Adapter],
    documents: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write adapters by key, and records of their documents by id, as one shard: whole or not.

    The same adapters have the same name, so that a second try changes nothing.

    Raises:
        OSError: no room, or a url that cannot be written; nothing of it is read then.
    """
    name = fingerprint(sorted(adapters))
    folder = None if is_url(path) else Path(path) / SCRATCH
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shard = Path(scratch) / name
        with AdapterStore(shard) as store:
            store.put_many(adapters, pack=True)
            store.put_records("document", documents)
        if folder is None:
            _upload(shard, f"{str(path).rstrip('/')}/{name}")
        elif not (target := Path(path) / name).exists():
            shard.rename(target)
            sync_folders({target.parent})


def push(store: AdapterStore, path: str | Path, progress: Callable[[int], None]) -> int:
    """Copy the adapters that a place lacks into new shards there, with their documents.

    Args:
        store: what is copied.
        path: folder or url.
        progress: called with the number of adapters done, those that were there included.

    Returns:
        How many were copied.

    Raises:
        TimeoutError: another process writes to the folder.
        ValueError: a store itself, or adapters of another kind than those there.
        As `open_shards` and `write_shard`. What was copied before stays; a second call goes on.
    """
    path = local_place(path)
    require_place(path)
    if not is_url(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    with nullcontext() if is_url(path) else locked(Path(path)):
        batches = _lacking(store, path)
        count = sum(map(len, batches))
        progress(done := len(store) - count)
        for batch in batches:
            adapters = {row.key: store.get(row.key) for row in batch}
            records = {row.document: store.get_record("document", row.document) for row in batch}
            write_shard(path, adapters, {i: r for i, r in records.items() if r is not None})
            progress(done := done + len(batch))
    return count


def _lacking(store: AdapterStore, path: str) -> list[list[Row]]:
    """Return what a place lacks, a pack each; ValueError where one would be refused there."""
    with open_shards(path, create=True) as shards:
        rows = (row for row in store.rows() if row.key not in shards)
        batches = list(runs(rows, lambda row: row.bytes, PACK_ROWS, PACK_BYTES))
        kinds = _known_kinds(record for _, record in shards.records(SHARD))
    for batch in batches:
        own = _kinds((row.key, row.spec) for row in batch)
        _require_alike(f"a shard of {store.path}", own, kinds)
        kinds |= own
    return batches


@dataclass(frozen=True)
class _Listing:
    """What lies at a place.

    Attributes:
        place: folder or url.
        system: its file system.
        root: the place as the file system calls it.
        indexes: what the file system says of the index of each shard, by the shard's name with a
            slash ("" for a store that lies at the place itself).
        sizes: bytes of packs, by their paths below the place.
    """

    place: str
    system: Any
    root: str
    indexes: Mapping[str, Any]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, place: str) -> _Listing:
        system, root = filesystem(place)
        with clear_remote_errors(place):
            system.invalidate_cache()
            if is_url(place):  # one request for a thousand objects, however deep
                files = system.find(root, detail=True)
            else:  # adapters in folders are many files that nobody asks for here
                pattern = f"{glob.escape(root)}/*/"
                files = system.glob(pattern + INDEX, detail=True)
                files |= system.glob(f"{pattern}{PACKS}/*", detail=True)
        below = {name.removeprefix(f"{root}/"): info for name, info in files.items()}
        indexes = {
            name.removesuffix(INDEX): info
            for name, info in below.items()
            if name.endswith(INDEX) and name.count("/") <= 1
        }
        sizes = {name: int(info["size"]) for name, info in below.items() if f"{PACKS}/" in name}
        return cls(place, system, root, indexes, sizes)

    @contextmanager
    def stores(self, names: Sequence[str]) -> Iterator[list[Path]]:
        """Give a folder with the index of each of these shards, on this machine."""
        if not is_url(self.place):
            yield [Path(self.place) / name for name in names]
            return
        with tempfile.TemporaryDirectory() as scratch:
            folders = [Path(scratch) / str(number) for number in range(len(names))]
            for folder in folders:
                folder.mkdir()
            if names:
                with clear_remote_errors(self.place):  # all at once
                    files = [f"{self.root}/{name}{INDEX}" for name in names]
                    self.system.get(files, [str(folder / INDEX) for folder in folders])
            yield folders

    def size(self, name: str) -> int:
        """Return the bytes of a pack; one that was written since the listing is looked up."""
        if name not in self.sizes:
            with clear_remote_errors(f"{self.place}/{name}"):
                return int(self.system.size(f"{self.root}/{name}"))
        return self.sizes[name]


def _update(joint: AdapterStore, listing: _Listing) -> None:
    """Let the joint index say what the shards' indexes say; only new shards are read."""
    versions = {
        f"{listing.place}/{name}": fingerprint(info) for name, info in listing.indexes.items()
    }
    known = dict(joint.records(SHARD))
    changed = any(versions.get(prefix) != record["version"] for prefix, record in known.items())
    if changed:  # or removed: what a shard had is not known one by one, so all are read
        known = {}
    kinds = _known_kinds(known.values())
    prefixes = [prefix for prefix in versions if prefix not in known]
    with listing.stores([prefix.removeprefix(f"{listing.place}/") for prefix in prefixes]) as paths:
        shards = dict(zip(prefixes, paths, strict=True))
        records: dict[str, dict[str, Any]] = {  # all, before anything is changed
            prefix: {"version": versions[prefix], "kinds": _check(listing, prefix, folder)}
            for prefix, folder in shards.items()
        }
        # Those of several kinds first: they join others that are of one each.
        for prefix in sorted(records, key=lambda prefix: -len(records[prefix]["kinds"])):
            _require_alike(f"the shard {prefix}", own := records[prefix]["kinds"], kinds)
            kinds |= own
        if changed:
            _replace(joint, shards, records)
        else:
            _absorb(joint, shards, records)


def _check(listing: _Listing, prefix: str, folder: Path) -> dict[str, str]:
    """Return the kinds of adapter of a shard; ValueError for one that is cut."""
    with closing(StoreIndex(folder, readonly=True)) as index:
        for pack, size in index.rows(ENDS):
            name = f"{prefix}{pack}"
            _require_whole(name, listing.size(name.removeprefix(f"{listing.place}/")), size)
        return dict(index.rows(KINDS))


def _kinds(adapters: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Return the kinds of adapters by key and spec, as `KINDS` has them."""
    return {
        key[key.find("-") + 1 :]: json.dumps(spec)
        for key, spec in adapters
        if not key.startswith("sft-")
    }


def _known_kinds(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the kinds of adapter of all shards, from their records."""
    return {kind: spec for record in records for kind, spec in record["kinds"].items()}


def _absorb(
    joint: AdapterStore, shards: Mapping[str, Path], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add what shards have, one by one, each with the record that says so."""
    for prefix, folder in shards.items():
        joint.absorb(folder, prefix)
        joint.put_record(SHARD, prefix, records[prefix])


def _replace(
    joint: AdapterStore, shards: Mapping[str, Path], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put what shards have in place of all that is there, in one step for those who read it."""
    # Into a store beside, then over: SQLite attaches no shard within a transaction. The index file
    # itself is not renamed over the old one, which a server that has it open would go on reading.
    folder = joint.path / SCRATCH
    if folder.exists():  # of an opening that was killed
        shutil.rmtree(folder)
    try:
        with AdapterStore(folder) as fresh:
            _absorb(fresh, shards, records)
        joint.replace_all(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_whole(pack: str, size: int, expected: int) -> None:
    if size < expected:
        raise ValueError(
            f"got {pack} of {size:,} bytes, expected {expected:,} or more: it was cut short; copy "
            "it again, or remove its shard and write it again (`prag parametrize`, `prag store "
            "push`)"
        )


def _require_alike(what: str, kinds: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise ValueError where a shard has no kind of adapter that the others have."""
    if not kinds or not expected or kinds.keys() & expected.keys():
        return
    spec, other = (json.loads(next(iter(specs.values()))) for specs in (kinds, expected))
    fields = [f"{n} {x} (expected {other[n]})" for n, x in spec.items() if x != other[n]]
    raise ValueError(
        f"got {what} of {', '.join(fields) or 'another parametrizer'}, expected one kind of "
        "adapter in all shards: parametrize with the settings of the others, or give it a folder "
        "of its own"
    )


def _warn_of_missing(place: str, names: Iterable[str]) -> None:
    """Name the numbered shards that are not there: their documents are not searched."""
    parts = [match for name in names if (match := NUMBERED.fullmatch(name.rstrip("/")))]
    for count in {int(match[2]) for match in parts}:
        there = {int(match[1]) for match in parts if int(match[2]) == count}
        if missing := sorted(set(range(count)) - there):
            logger.warning("%s lacks the shards %s of %d", place, missing, count)


def _upload(shard: Path, url: str) -> None:
    """Copy a store to a url, its index last: without it nobody reads the rest."""
    system, root = filesystem(url)
    files = [HEADER, *(f"{PACKS}/{path.name}" for path in (shard / PACKS).iterdir()), INDEX]
    with clear_remote_errors(url):
        for file in files:
            system.put_file(str(shard / file), f"{root}/{file}")
