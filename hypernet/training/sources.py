"""Sources of training data: folders go in, documents with their questions come out, split."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from hypernet.training.batches import Item
from hypernet.training.disk_corpus import DiskCorpus
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import load_question_set


def split(
    pool: list[Item] | DiskCorpus, articles: set[str]
) -> tuple[list[Item] | DiskCorpus, list[Item]]:
    """Return the pool without these articles, and their items."""
    if isinstance(pool, DiskCorpus):  # it finds them without reading the others
        return pool.split(articles)
    rest = [item for item in pool if item.article not in articles]
    return rest, [item for item in pool if item.article in articles]


def articles_of(pools: Iterable[list[Item] | DiskCorpus]) -> set[str]:
    """Return the articles that documents come from."""
    articles: set[str] = set()
    for pool in pools:
        on_disk = isinstance(pool, DiskCorpus)
        articles |= pool.articles() if on_disk else {item.article for item in pool}
    return articles


def held_out_articles(articles: Collection[str], count: int, seed: int) -> set[str]:
    """Draw the validation articles; one at least is left to train on."""
    # Sorted, because a set has another order in every process.
    drawn = random.Random(seed).sample(sorted(articles), min(count, max(0, len(articles) - 1)))
    return set(drawn)


def corpus_file(source: str) -> Path:
    """Return corpus.jsonl(.gz) of a folder, or the file itself."""
    names = ("corpus.jsonl.gz", "corpus.jsonl")
    return next((Path(source) / n for n in names if (Path(source) / n).is_file()), Path(source))


def read_question_set(source: str) -> tuple[list[Document], list[tuple[tuple[str, str], ...]]]:
    """Return the documents that questions are asked about, and their (question, answer) pairs.

    Raises:
        ValueError: no question refers to a document.
    """
    questions = load_question_set(source)
    by_document: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for question in questions.questions:
        for identifier in question.gold_ids:
            # The first of the answers: a target is one text.
            by_document[identifier].append((question.question, question.golden_answers[0]))
    # Distractors of the corpus, which no question asks about, are left out.
    documents = [d for d in questions.documents if d.id in by_document]
    if not documents:
        raise ValueError(
            f"got no questions about the documents of {source}, expected gold_ids that name "
            "documents of its corpus: correct them, or list the folder under `corpora`"
        )
    return documents, [tuple(by_document[d.id]) for d in documents]
