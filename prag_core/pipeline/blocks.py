"""Blocks: documents go in; each block of them becomes one shard, whole or not at all.

    documents -> blocks of about a thousand, by length -> adapters -> a shard each (pack and index)

A block is made of whole batches in the order of a serial run, so that its adapters are those of
`prag parametrize` without a runner, bit for bit. What the place has already is not made again: a
block that another process, or an earlier one that was killed, has written is passed over.

Two runners: `serial`, in this process, and `ray`, Ray Data's `map_batches` over actors that load
base model and parametrizer once. Ray starts actors again that died, and gives their blocks to
others; where the driver died, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from prag_core.adapters.adapter import Adapter, Parametrizer, adapter_key
from prag_core.adapters.shards import write_shard
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.model.base_model import load_base_model
from prag_core.pipeline.parts import build_parametrizer
from prag_core.pipeline.rag import parametrized, require_made
from prag_core.pipeline.setup import RayOptions, Setup

Block = list[Document]
PIP = "pip install 'prag[ray]'"


class BlockWriter:
    """Makes the adapters of blocks and writes a shard of each; what an actor holds."""

    def __init__(self, parametrizer: Parametrizer, place: str) -> None:
        self.parametrizer, self.place = parametrizer, place

    @classmethod
    def load(cls, setup: Setup, place: str, corpus: Sequence[Document]) -> BlockWriter:
        """Load base model and parametrizer (see `build_parametrizer`)."""
        base = load_base_model(setup.base_model, setup.dtype, setup.device)
        return cls(build_parametrizer(base, setup, None, corpus), place)

    def write(self, block: Block) -> list[str]:
        """Write one block; returns a line for every document that no adapter can be made of."""
        made: dict[str, Adapter] = {}
        records: dict[str, dict[str, Any]] = {}
        failures: list[str] = []
        size = self.parametrizer.batch_size
        for start in range(0, len(block), size):
            batch = block[start : start + size]
            for document, adapter in parametrized(self.parametrizer, batch, failures):
                made[_key(document, self.parametrizer)] = adapter
                records[document.id] = asdict(document)
        if made:
            write_shard(self.place, made, records)
        return failures


def missing_blocks(
    documents: Sequence[Document], parametrizer: Parametrizer, store: AdapterStore, size: int
) -> list[Block]:
    """Cut documents into blocks and return what the store lacks of each, without empty ones.

    Args:
        documents: all, those that have an adapter included, so that the batches stay the same.
        parametrizer: says the keys, and the size of a batch.
        store: what is there.
        size: documents of a block; made a multiple of the batch.
    """
    unique = {document.id: document for document in documents}
    ordered = sorted(unique.values(), key=lambda document: len(document.text))
    size = max(1, size // parametrizer.batch_size) * parametrizer.batch_size
    cut = (ordered[start : start + size] for start in range(0, len(ordered), size))
    lacking = ([d for d in block if _key(d, parametrizer) not in store] for block in cut)
    return [block for block in lacking if block]


def take(
    results: Iterable[tuple[int, list[str]]], progress: Callable[[int], None], total: int
) -> None:
    """Take the results of a runner, as they come.

    Args:
        results: for each block its number of documents and what failed.
        progress: called with the number of documents done.
        total: documents, for the error.

    Raises:
        ValueError: documents that no adapter can be made of; the others are there.
    """
    done, failures = 0, list[str]()
    for count, lines in results:
        progress(done := done + count)
        failures += lines
    require_made(failures, total)


def run_serial(writer: BlockWriter, blocks: Sequence[Block]) -> Iterator[tuple[int, list[str]]]:
    """Write blocks one by one in this process."""
    return ((len(block), writer.write(block)) for block in blocks)


def run_ray(
    setup: Setup,
    place: str,
    blocks: Sequence[Block],
    corpus: Sequence[Document],
    options: RayOptions,
) -> Iterator[tuple[int, list[str]]]:
    """Write blocks on a Ray cluster; the results come in the order in which they are done.

    Args:
        setup: settings, with a path that is no longer `auto`.
        place: folder that all machines of the cluster see, or url.
        blocks: to be written.
        corpus: what a file of question-answer pairs names, see `build_parametrizer`.
        options: actors.

    Raises:
        ValueError: no Ray, or a cluster without room for the actors.
    """
    ray = _started_ray(options)
    rows = [{"block": json.dumps([asdict(document) for document in block])} for block in blocks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(setup, place, corpus),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=options.cpus,
        num_gpus=options.gpus or None,
    )
    for row in dataset.iter_rows():
        yield row["count"], json.loads(row["failures"])


class _Actor:
    """A block writer as Ray Data calls it: columns of JSON go in and come out."""

    def __init__(self, setup: Setup, place: str, corpus: Sequence[Document]) -> None:
        self.writer = BlockWriter.load(setup, place, corpus)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        counts, failures = [], []
        for text in batch["block"]:
            block = [Document(**record) for record in json.loads(text)]
            counts.append(len(block))
            failures.append(json.dumps(self.writer.write(block)))
        return {"count": counts, "failures": failures}


def _started_ray(options: RayOptions) -> Any:
    """Import Ray and connect to a cluster that has room for the actors."""
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(f"got no Ray ({error}), expected it for --runner ray: {PIP}") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    if options.actors * options.cpus > cpus - 1 or options.actors * options.gpus > gpus:
        raise ValueError(
            f"got {options} for a cluster of {cpus:g} CPUs and {gpus:g} GPUs, expected one CPU "
            "to be left beside all actors: lower --ray.actors, --ray.cpus or --ray.gpus, or name "
            "a larger cluster in RAY_ADDRESS"
        )
    return ray


def _key(document: Document, parametrizer: Parametrizer) -> str:
    return adapter_key(document.id, parametrizer.spec, parametrizer.fingerprint)
