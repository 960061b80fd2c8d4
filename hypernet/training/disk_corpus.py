"""Disk corpus: a corpus of any size goes in, items come out one at a time, by number.

The documents are written to a memory-mapped Arrow table once (kept in the cache folder, found again
by path, size and time); in memory are a few numbers a document (its length and place).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from hypernet.training.batches import Item, make_items
from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.documents import Document, iter_documents
from prag_core.model.base_model import BaseModel
from prag_core.model.catalogue import cache_folder


class DiskCorpus(Sequence):
    """Documents without questions, on disk, as items that are tokenised when they are drawn."""

    def __init__(
        self,
        path: Path,
        base: BaseModel,
        facts: Callable[[Document], tuple],
        limit: int | None = None,
    ) -> None:
        """Write the table and count tokens, or find both in the cache folder.

        Args:
            path: corpus file.
            base: whose tokenizer counts.
            facts: what can be asked about a document (see `Item.facts`).
            limit: documents taken from the file; all when omitted.
        """
        import datasets  # slow to import, and only needed here

        self.tokenizer, self.facts = base.tokenizer, facts
        datasets.disable_progress_bars()  # Lightning's stand in the same terminal
        state = path.stat()
        source = {"path": str(path.resolve()), "size": state.st_size, "time": state.st_mtime_ns}
        table = datasets.Dataset.from_generator(
            _records,
            gen_kwargs=source | {"limit": limit},
            cache_dir=str(cache_folder() / "corpora"),
        )
        # Named by us: `datasets` would hash the tokenizer, which changes from process to process.
        self.table = table.map(
            self._count,
            batched=True,
            new_fingerprint=fingerprint([source, limit, base.fingerprint, "articles"]),
        )
        column = self.table.with_format("numpy")["tokens"][:]
        self.lengths = np.asarray(column, dtype=np.int32)  # (N,), as len(item)
        self.places = np.arange(len(self.lengths))  # (N,), of the documents in the table

    def fitting(self, least: int, most: int) -> DiskCorpus:
        """Keep the documents of more than `least` and at most `most` tokens."""
        inside = (self.lengths > least) & (self.lengths <= most)  # (N,)
        self.lengths, self.places = self.lengths[inside], self.places[inside]
        return self

    def articles(self) -> set[str]:
        """Return the articles that documents come from."""
        return set(self.table.data.column("article").take(self.places).unique().to_pylist())

    def split(self, articles: set[str]) -> tuple[DiskCorpus, list[Item]]:
        """Leave out these articles' documents; returns the corpus and what was left out."""
        import pyarrow
        from pyarrow import compute

        names = pyarrow.array(sorted(articles), pyarrow.string())
        # In Arrow: a list of a large corpus' articles would not fit into memory.
        outside = compute.is_in(self.table.data.column("article"), value_set=names).to_numpy()
        outside = outside[self.places]  # (N,)
        items = [self[int(place)] for place in np.flatnonzero(outside)]
        self.lengths, self.places = self.lengths[~outside], self.places[~outside]
        return self, items

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        row = self.table[int(self.places[index])]
        document = Document(row["text"], row["title"])
        return make_items(self.tokenizer, [document], facts=[self.facts(document)])[0]

    def _count(self, rows: dict[str, list[str]]) -> dict[str, list[int]]:
        documents = [Document(*row) for row in zip(rows["text"], rows["title"], strict=True)]
        items = make_items(self.tokenizer, documents)
        return {"tokens": [len(x) for x in items], "article": [x.article for x in items]}


def _records(path: str, size: int, time: int, limit: int | None) -> Iterator[dict[str, str]]:
    """Yield the rows of the table; size and time make a changed file another table."""
    for document in islice(iter_documents(path), limit):
        yield {"title": document.title, "text": document.text}
