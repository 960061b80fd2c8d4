"""Benchmark of the adapter store: a folder and a count go in, times and sizes come out."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from prag_core.adapters.adapter import Adapter, AdapterSpec, adapter_key
from prag_core.adapters.store import AdapterStore

BATCH = 64  # adapters a transaction, as the trained path writes them
READS = 1000
OPENINGS = 5
HIDDEN, INNER = 576, 1536  # SmolLM2-135M


def measure_store(folder: str | Path, count: int = 100_000, rank: int = 2) -> dict[str, float]:
    """Write `count` small adapters (one down_proj of SmolLM2, bfloat16) and measure the store.

    Returns:
        count, raw_bytes (of `Adapter.to_bytes`), file_bytes and overhead_percent over raw, the
        same two after `compact`, write_per_second, and medians in ms: open_ms, get_bytes_ms and
        get_ms (parsed) of random keys, get_ms_99 the 99th percentile.
    """
    spec = AdapterSpec("0" * 16, rank, 16.0 * rank, ("down_proj",), (15,), "bfloat16")
    with AdapterStore(folder) as store:
        start = time.perf_counter()
        batch = {}
        for key, adapter in _adapters(spec, count):
            batch[key] = adapter
            if len(batch) == BATCH:
                store.put_many(batch)
                batch = {}
        store.put_many(batch)
        seconds = time.perf_counter() - start
        report = {"count": len(store), "write_per_second": count / seconds}
        report |= {"raw_bytes": store.stats()["bytes"]} | _size(store, "")
    openings = (_milliseconds(lambda: AdapterStore(folder).close()) for _ in range(OPENINGS))
    report["open_ms"] = median(openings)
    with AdapterStore(folder, readonly=True) as store:
        keys = random.Random(0).choices(list(store.keys()), k=READS)
        parsed = sorted(_milliseconds(lambda k=key: store.get(k)) for key in keys)
        report["get_bytes_ms"] = median(_milliseconds(lambda k=k: store.get_bytes(k)) for k in keys)
        report |= {"get_ms": median(parsed), "get_ms_99": parsed[READS * 99 // 100]}
    with AdapterStore(folder) as store:
        report["compact_seconds"] = _milliseconds(store.compact) / 1000
        return report | _size(store, "compacted_")


def _adapters(spec: AdapterSpec, count: int) -> Iterator[tuple[str, Adapter]]:
    generator = torch.Generator().manual_seed(0)
    path = spec.paths()[0]
    for i in range(count):
        a = torch.randn(spec.rank, INNER, generator=generator).to(torch.bfloat16)
        b = torch.randn(HIDDEN, spec.rank, generator=generator).to(torch.bfloat16)
        document_id = hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest()
        adapter = Adapter(spec, {path: (a, b)}, {"document_id": document_id})
        yield adapter_key(document_id, spec, "0" * 16), adapter


def _size(store: AdapterStore, prefix: str) -> dict[str, float]:
    stats = store.stats()
    over = 100 * (stats["file_bytes"] / max(1, stats["bytes"]) - 1)
    return {prefix + "file_bytes": stats["file_bytes"], prefix + "overhead_percent": over}


def _milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)
