"""Benchmark of the adapter store: a folder and a count go in, times and sizes come out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from prag_core.adapters.adapter import Adapter, AdapterSpec, adapter_key
from prag_core.adapters.store import AdapterStore
from prag_core.speed.measurement import Measurement, bounded, seconds

BATCH = 64  # adapters a transaction, as the trained path writes them
READS, OPENINGS, SINGLES = 1000, 5, 64
HIDDEN, INNER = 576, 1536  # SmolLM2-135M


def measure_store(folder: str | Path, count: int = 100_000, rank: int = 2) -> list[Measurement]:
    """Write `count` small adapters (one down_proj of SmolLM2, bfloat16) and measure the store.

    Times are medians. An opening includes the first question asked of the index; raw is the size of
    `Adapter.to_bytes`; single adapters are put into a folder each.
    """
    spec = AdapterSpec("0" * 16, rank, 16.0 * rank, ("down_proj",), (15,), "bfloat16")
    adapters, note = _adapters(spec, count), f"{count} adapters, rank {rank}"
    with AdapterStore(folder) as store:
        spent = 0.0  # making the adapters does not count
        while batch := list(islice(adapters, BATCH)):
            spent += seconds(lambda batch=batch: store.put_many(batch))
        written = _over_raw(store)
    openings = [1000 * seconds(lambda: _open(folder)) for _ in range(OPENINGS)]
    with AdapterStore(folder, readonly=True) as store:
        keys = random.Random(0).choices(list(store.keys()), k=READS)
        reads = sorted(1000 * seconds(lambda k=key: store.get(k)) for key in keys)
    with AdapterStore(folder) as store:
        # Twice: what the first sweep takes out of the index, the second deletes.
        sweep = seconds(lambda: (store.sweep(0), store.sweep(0)))
        swept = _over_raw(store)
        singles = [(f"single-{key}", adapter) for key, adapter in _adapters(spec, SINGLES)]
        puts = [1000 * seconds(lambda s=single: store.put(*s)) for single in singles]
    return [
        bounded("open", median(openings), "ms", "<=", 50, note),
        bounded("get one at random", median(reads), "ms", "<=", 1, note),
        Measurement("get, 99th percentile", reads[READS * 99 // 100], "ms", note=note),
        bounded("put in batches", count / spent, "/s", ">=", 500, note),
        Measurement("put one by one", median(puts), "ms", note=f"{SINGLES} adapters"),
        Measurement("size over raw", written, "%", note=note),
        Measurement("size over raw, swept", swept, "%", note=f"in {sweep:.1f} s"),
    ]


def _open(folder: str | Path) -> None:
    with AdapterStore(folder, readonly=True) as store:
        store.has("")


def _adapters(spec: AdapterSpec, count: int) -> Iterator[tuple[str, Adapter]]:
    """Yield random adapters with their keys."""
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        a = torch.randn(spec.rank, INNER, generator=generator).to(torch.bfloat16)  # (R, I)
        b = torch.randn(HIDDEN, spec.rank, generator=generator).to(torch.bfloat16)  # (H, R)
        # Spread over the keys as the hashes of real documents are.
        document_id = hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest()
        adapter = Adapter(spec, {spec.paths()[0]: (a, b)}, {"document_id": document_id})
        yield adapter_key(document_id, spec, "0" * 16), adapter


def _over_raw(store: AdapterStore) -> float:
    """Return by how many % the files are larger than what was put in."""
    stats = store.stats()
    return 100 * (stats["file_bytes"] / max(1, stats["bytes"]) - 1)
