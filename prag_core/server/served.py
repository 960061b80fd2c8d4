"""Served: what the service notes of a document's adapter, and how its work is cut into pieces."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document

KIND = "served"  # of the records on documents' adapters
BATCH_CHARACTERS = 16_000  # made in one call, between two decoding steps


@dataclass(frozen=True)
class Served:
    """A document's adapter in the service.

    Attributes:
        key: of the adapter in the store.
        path: who made it: `generated` or `trained`.
        bytes: size of its tensors.
        seconds: that making it took, the share of its batch.
        created: seconds since 1970.
    """

    key: str
    path: str
    bytes: int
    seconds: float
    created: int


def batches(documents: Sequence[Document], most: int) -> Iterator[list[Document]]:
    """Yield runs of at most `most` documents and, unless one alone has more, BATCH_CHARACTERS."""
    batch: list[Document] = []
    for document in documents:
        # By characters, because answers wait for the whole batch: it runs between two steps.
        characters = sum(len(d.text) for d in batch) + len(document.text)
        if batch and (len(batch) == most or characters > BATCH_CHARACTERS):
            yield batch
            batch = []
        batch.append(document)
    if batch:
        yield batch


def served_record(key: str, adapter: Adapter, seconds: float) -> Served:
    """Describe an adapter that was made just now."""
    path = adapter.metadata.get("path", "")
    return Served(key, path, adapter.nbytes, round(seconds, 4), int(time.time()))


def shares(steps: Generator, before: float, share: float) -> Generator[float, None, object]:
    """Turn (done, all) of a training's steps into the share of the whole job."""
    while True:
        try:
            done, total = next(steps)
        except StopIteration as stop:
            return stop.value
        yield before + share * done / total
