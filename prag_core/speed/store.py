"""Benchmark of the adapter store: a folder and a count go in, times and sizes come out."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from prag_core.adapters.adapter import Adapter, AdapterSpec, adapter_key
from prag_core.adapters.store import AdapterStore

BATCH = 64  # adapters a transaction, as the trained path writes them
SINGLES = 64
READS = 1000
OPENINGS = 5
HIDDEN, INNER = 576, 1536  # SmolLM2-135M


def measure_store(folder: str | Path, count: int = 100_000, rank: int = 2) -> dict[str, float]:
    """Write `count` small adapters (one down_proj of SmolLM2, bfloat16) and measure the store.

    Returns:
        count, raw_bytes (of `Adapter.to_bytes`), file_bytes and overhead_percent over raw, the
        same two after `sweep` with sweep_seconds, write_per_second in batches, put_ms one by one
        (each a folder), and medians in ms: open_ms (with the first question asked of the index),
        get_ms of random keys, get_ms_99 the 99th percentile.
    """
    spec = AdapterSpec("0" * 16, rank, 16.0 * rank, ("down_proj",), (15,), "bfloat16")
    adapters = _adapters(spec, count)
    with AdapterStore(folder) as store:
        seconds = 0.0
        while batch := list(islice(adapters, BATCH)):
            seconds += _milliseconds(lambda batch=batch: store.put_many(batch)) / 1000
        report = {"count": len(store), "write_per_second": count / seconds}
        report |= {"raw_bytes": store.stats()["bytes"]} | _size(store, "")
    openings = (_milliseconds(lambda: _open(folder)) for _ in range(OPENINGS))
    report["open_ms"] = median(openings)
    with AdapterStore(folder, readonly=True) as store:
        keys = random.Random(0).choices(list(store.keys()), k=READS)
        times = sorted(_milliseconds(lambda k=key: store.get(k)) for key in keys)
        report |= {"get_ms": median(times), "get_ms_99": times[READS * 99 // 100]}
    with AdapterStore(folder) as store:
        report["sweep_seconds"] = _milliseconds(lambda: (store.sweep(0), store.sweep(0))) / 1000
        report |= _size(store, "swept_")
        singles = [(f"single-{key}", adapter) for key, adapter in _adapters(spec, SINGLES)]
        report["put_ms"] = median(
            _milliseconds(lambda s=single: store.put(*s)) for single in singles
        )
    return report


def _open(folder: str | Path) -> None:
    with AdapterStore(folder, readonly=True) as store:
        store.has("")


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
