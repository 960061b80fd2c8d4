"""Sources of training data: folders and files go in, tokenised documents with questions come out.

A pool holds the items of one source: a list, or a `DiskCorpus`, which keeps a corpus of any size in
a memory-mapped Arrow table and tokenises what is drawn.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.relations import find_facts
from prag_core.augmentation.span_augmenter import choose_pairs
from prag_core.corpus.documents import Document, iter_documents, lines_file
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.catalogue import cache_folder

logger = logging.getLogger(__name__)
NOTHING = LeaveOut()


@dataclass(frozen=True)
class Item:
    """One tokenised document with what can be asked about it.

    `pairs` are (question, golden answers ...), the first of which is trained on; `facts` are
    patterns' (ways to ask, answer); `joint` are (question, answer, ids of the other documents that
    it takes to answer).
    """

    document: Document
    title_ids: tuple[int, ...]
    text_ids: tuple[int, ...]
    pairs: tuple[tuple[str, ...], ...] = ()
    facts: tuple[tuple[tuple[str, ...], str], ...] = ()
    joint: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.title_ids) + len(self.text_ids) + 2  # start and end

    @property
    def article(self) -> str:
        """What the document is a part of: its title, or its id where it has none."""
        return self.document.title or self.document.id


def make_items(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    pairs: Sequence[tuple] = (),
    facts: Sequence[tuple] = (),
    joint: Sequence[tuple] = (),
) -> list[Item]:
    """Tokenise documents: `title: text`, without special tokens; the rest is one a document."""
    titles = [f"{d.title}: " if d.title else "" for d in documents]
    titled, texts = text_ids(tokenizer, titles), text_ids(tokenizer, (d.text for d in documents))
    asked = (rows or [()] * len(documents) for rows in (pairs, facts, joint))
    rows = zip(documents, titled, texts, *asked, strict=True)
    return [Item(document, *map(tuple, row)) for document, *row in rows]


class DiskCorpus(Sequence):
    """Documents without questions, on disk, as items that are tokenised when they are drawn.

    The table is written to the cache folder once, and found again by path, size and time; in memory
    are a few numbers a document (its length and place).
    """

    def __init__(
        self,
        path: Path,
        base: BaseModel,
        pairs: int,
        limit: int | None,
        bounds: tuple[int, int],
        leave_out: LeaveOut,
    ) -> None:
        """Write the table and count tokens, or find both; see `read_corpus`."""
        import datasets  # slow to import, and only needed here

        self.tokenizer, self.pairs, self.leave_out = base.tokenizer, pairs, leave_out
        datasets.disable_progress_bars()  # Lightning's stand in the same terminal
        state = path.stat()
        source = {"path": str(path.resolve()), "size": state.st_size, "time": state.st_mtime_ns}
        table = datasets.Dataset.from_generator(
            _records,
            gen_kwargs=source | {"limit": limit},
            cache_dir=str(cache_folder() / "corpora"),
        )
        # Named by us: `datasets` would hash the tokenizer, which changes from process to process.
        name = fingerprint([source, limit, base.fingerprint, "articles"])
        self.table = table.map(self._count, batched=True, new_fingerprint=name)
        column = self.table.with_format("numpy")["tokens"][:]
        lengths = np.asarray(column, dtype=np.int32)  # (N,), as len(item)
        self.places = np.flatnonzero((lengths > bounds[0]) & (lengths <= bounds[1]))  # in the table
        self.lengths = lengths[self.places]  # (N,)

    def articles(self) -> set[str]:
        """Return the articles that documents come from."""
        return set(self.table.data.column("article").take(self.places).unique().to_pylist())

    def split(self, articles: set[str]) -> tuple[DiskCorpus, list[Item]]:
        """Leave out these articles' documents; returns the corpus and what was left out."""
        outside = self._among("article", articles)
        items = [self[int(place)] for place in np.flatnonzero(outside)]
        self._keep(~outside)
        return self, items

    def without(self, texts: set[str]) -> DiskCorpus:
        """Leave out documents of these texts."""
        self._keep(~self._among("text", texts))
        return self

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        row = self.table[int(self.places[index])]
        document = Document(row["text"], row["title"])
        facts = _facts(document, self.pairs, self.leave_out)
        return make_items(self.tokenizer, [document], facts=[facts])[0]

    def _among(self, column: str, values: set[str]) -> np.ndarray:
        """Say of each document whether its column holds one of the values: (N,)."""
        import pyarrow
        from pyarrow import compute

        found = pyarrow.array(sorted(values), pyarrow.string())
        # In Arrow: a list of a large corpus' articles would not fit into memory.
        rows = compute.is_in(self.table.data.column(column), value_set=found)
        return rows.to_numpy()[self.places]

    def _keep(self, kept: np.ndarray) -> None:
        self.lengths, self.places = self.lengths[kept], self.places[kept]

    def _count(self, rows: dict[str, list[str]]) -> dict[str, list[int]]:
        documents = [Document(*row) for row in zip(rows["text"], rows["title"], strict=True)]
        items = make_items(self.tokenizer, documents)
        return {"tokens": [len(x) for x in items], "article": [x.article for x in items]}


Pool = list[Item] | DiskCorpus


def read_corpus(
    path: Path, base: BaseModel, pairs: int, limit: int | None, bounds: tuple[int, int],
    on_disk: bool, leave_out: LeaveOut = NOTHING,
) -> Pool:  # fmt: skip
    """Return a corpus' documents with what patterns and rules ask about them.

    Args:
        path: corpus file.
        base: whose tokens are counted.
        pairs: question-answer pairs made of each document by rule, beside the patterns'.
        limit: documents taken from the file; None: all.
        bounds: tokens of a document, more than the first and at most the second.
        on_disk: keep it there. Corpora that fit are faster as lists: nothing is tokenised twice.
        leave_out: its questions are not taken; its articles and documents are (see `split`,
            `without`).
    """
    if on_disk:
        return DiskCorpus(path, base, pairs, limit, bounds, leave_out)
    documents = list(islice(iter_documents(path), limit))
    facts = [_facts(document, pairs, leave_out) for document in documents]
    return fitting(make_items(base.tokenizer, documents, facts=facts), bounds)


def read_question_set(
    source: str, tokenizer: PreTrainedTokenizerBase, leave_out: LeaveOut = NOTHING
) -> list[Item]:
    """Return the documents that questions are asked about, without questions to be left out.

    A question with several gold documents takes all of them. Bad records are left out: one in a
    large set is no reason not to train.

    Raises:
        ValueError: no question refers to a document.
    """
    counts: Counter[str] = Counter()
    # A hub's validation split is what benchmarks measure.
    split = "" if Path(source).exists() else "train"
    questions = load_question_set(source, split, skip_bad=True, counts=counts)
    if counts["bad"]:
        logger.warning("%s: left out %d bad records", source, counts["bad"])
    pairs: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    joint: dict[str, list[tuple[str, str, tuple[str, ...]]]] = defaultdict(list)
    for question in questions.questions:
        answers = question.golden_answers
        if not answers or leave_out.asks(question.question, answers):
            continue
        gold = tuple(dict.fromkeys(question.gold_ids))
        for identifier in gold:
            others = tuple(other for other in gold if other != identifier)
            if others:
                joint[identifier].append((question.question, answers[0], others))
            else:
                pairs[identifier].append((question.question, *answers))
    # Distractors of the corpus, which no question asks about, are left out.
    documents = [d for d in questions.documents if d.id in pairs or d.id in joint]
    if not documents:
        raise ValueError(
            f"got no questions about the documents of {source}, expected golden answers, and "
            "gold_ids that name documents of its corpus: correct them, or list the folder under "
            "`corpora`"
        )
    asked = [[by_id.get(d.id, ()) for d in documents] for by_id in (pairs, joint)]
    return make_items(tokenizer, documents, asked[0], joint=asked[1])


def fitting(items: list[Item], bounds: tuple[int, int]) -> list[Item]:
    """Return the items within bounds; see `read_corpus`."""
    # Left out, not cut: a question may be about the part that is cut off.
    return [item for item in items if bounds[0] < len(item) <= bounds[1]]


def split(pool: Pool, articles: set[str]) -> tuple[Pool, list[Item]]:
    """Return the pool without these articles, and their items."""
    if isinstance(pool, DiskCorpus):  # it finds them without reading the others
        return pool.split(articles)
    rest = [item for item in pool if item.article not in articles]
    return rest, [item for item in pool if item.article in articles]


def without(pool: Pool, texts: set[str]) -> Pool:
    """Return the pool without documents of these texts."""
    if isinstance(pool, DiskCorpus):
        return pool.without(texts)
    return [item for item in pool if item.document.text not in texts]


def articles_of(pools: Iterable[Pool]) -> set[str]:
    """Return the articles that documents come from."""
    named = (p.articles() if isinstance(p, DiskCorpus) else {x.article for x in p} for p in pools)
    return set().union(*named)


def held_out_articles(articles: Collection[str], count: int, seed: int) -> set[str]:
    """Draw the validation articles; one at least is left to train on."""
    # Sorted, because a set has another order in every process.
    return set(random.Random(seed).sample(sorted(articles), max(0, min(count, len(articles) - 1))))


def corpus_file(source: str) -> Path:
    """Return corpus.jsonl(.gz) of a folder, or the file itself."""
    return lines_file(Path(source), "corpus") or Path(source)


def _facts(document: Document, pairs: int, leave_out: LeaveOut) -> tuple:
    """Return what can be asked about a document without questions: (ways to ask, answer)."""
    by_rule = choose_pairs(document, pairs) if pairs else ()
    facts = (*find_facts(document), *(((pair.question,), pair.answer) for pair in by_rule))
    # All ways to ask for a fact are of one relation: one that is left out takes the others along.
    return tuple(
        (ways, said)
        for ways, said in facts
        if not any(leave_out.asks(way, (said,)) for way in ways)
    )


def _records(path: str, size: int, time: int, limit: int | None) -> Iterator[dict[str, str]]:
    """Yield the rows of the table; size and time make a changed file another table."""
    for document in islice(iter_documents(path), limit):
        yield {"title": document.title, "text": document.text}
