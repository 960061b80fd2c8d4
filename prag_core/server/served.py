"""Served: a store's row goes in, what a server shows of that adapter comes out; work in pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from prag_core.adapters.store_places import Row
from prag_core.corpus.documents import Document

BATCH_CHARACTERS = 16_000  # made, and kept, at one time


@dataclass(frozen=True)
class Served:
    """A document's adapter in the service.

    Attributes:
        key: of the adapter in the store.
        path: who made it: `generated` or `trained`.
        base_model: fingerprint of the base model that it belongs to.
        bytes: size of its files.
        seconds: that making it took, the share of its batch; 0 where another command made it.
        created: seconds since 1970; 0 where another command made it.
        problem: why a document has no adapter that can be read; the other fields are empty then.
    """

    key: str = ""
    path: str = ""
    base_model: str = ""
    bytes: int = 0
    seconds: float = 0.0
    created: int = 0
    problem: str = ""

    @classmethod
    def from_row(cls, row: Row) -> Served:
        """Read what the store's index has of an adapter."""
        base_model, note = row.spec["base_model"], row.metadata
        # An adapter's metadata are strings; the service writes the last two (`Service._keep`).
        seconds, created = float(note.get("seconds", 0)), int(note.get("created", 0))
        return cls(row.key, note.get("path", ""), base_model, row.bytes, seconds, created)


def batches(documents: Sequence[Document], most: int) -> Iterator[list[Document]]:
    """Yield runs of at most `most` documents and, unless one alone has more, BATCH_CHARACTERS."""
    batch: list[Document] = []
    for document in documents:
        # By characters too, because a batch is lost when the server ends before it is kept.
        characters = sum(len(d.text) for d in batch) + len(document.text)
        if batch and (len(batch) == most or characters > BATCH_CHARACTERS):
            yield batch
            batch = []
        batch.append(document)
    if batch:
        yield batch


def shares(steps: Generator, before: float, share: float) -> Generator[float, None, object]:
    """Turn (done, all) of a training's steps into the share of the whole job."""
    while True:
        try:
            done, total = next(steps)
        except StopIteration as stop:
            return stop.value
        yield before + share * done / total
