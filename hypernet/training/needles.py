"""Needles: a corpus goes in, a question set comes out: long texts with odd facts hidden in them.

`prag evaluate` asks for the facts: from one adapter of the whole text, or, with --chunk_tokens,
from the chunks that a retriever finds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

from hypernet.training.sources import corpus_file
from prag_core.corpus.chunking import chunk_documents
from prag_core.corpus.documents import Document, iter_documents
from prag_core.files import require_no_set, write_set
from prag_core.model.base_model import EMBEDDED_NAME, load_base_model

NAMES = ("Ostrel", "Quellamar", "Veldin", "Tarnmoor", "Brisk", "Ulvena", "Corrick", "Maduin")
THINGS = ("bridge", "harbour", "library", "windmill", "observatory", "orchard", "lighthouse")
TRAINING_THINGS = ("tower", "school", "mill", "garden", "market", "palace", "station", "theatre",
                   "quarry", "abbey", "tunnel", "castle")  # fmt: skip
SYLLABLES = ("ba", "den", "fir", "gol", "hes", "jun", "kar", "lom", "mir", "nor", "pel", "rus",
             "sol", "tam", "vor", "wen", "yar", "zel")  # fmt: skip
TRAINING_START = 2_000  # documents of a corpus before it are those of sets to test on


def needle_set(
    corpus: str,
    folder: str,
    documents: int = 4_000,
    tokens: int = 340,
    needles: int = 1,
    test: bool = False,
    base_model: str = EMBEDDED_NAME,
    seed: int = 1,
) -> None:
    """Write a question set: texts of a corpus with invented facts hidden in them.

    Args:
        corpus: folder or file of documents that the texts are made of.
        folder: where corpus.jsonl and questions.jsonl are written.
        documents: how many texts.
        tokens: of a text, at most, without its facts.
        needles: facts in each, with a question for every one.
        test: a set to ask, not to train on: other names and things, and another part of the corpus.
        base_model: whose tokens they are.
        seed: of the facts and their places.

    Raises:
        ValueError: too little text, or more facts in a text than there are names and things.
    """
    require_no_set(Path(folder))
    tokenizer, draw = load_base_model(base_model).tokenizer, random.Random(seed)
    pool = iter_documents(corpus_file(corpus))
    pool = islice(pool, TRAINING_START) if test else islice(pool, TRAINING_START, None)
    texts = long_texts((document.text for document in pool), tokenizer, tokens)
    rows, questions = [], []
    for key, text in zip(map(str, range(documents)), texts, strict=False):
        facts = draw_facts(draw, needles, test)
        # One fact may stand anywhere; several keep their order, at even depths.
        depths = [(n + draw.random()) / needles for n in range(needles)]
        # From the end, so that a place found by depth is not moved by the next fact.
        for depth, (fact, _, _) in sorted(zip(depths, facts, strict=True), reverse=True):
            text = insert(text, fact, depth)
        rows.append({"id": key, "text": text})
        questions += [
            {
                "id": f"{key}.{n}",
                "question": question,
                "golden_answers": [answer],
                "gold_ids": [key],
            }
            for n, (_, question, answer) in enumerate(facts)
        ]
    if len(rows) < documents:
        raise ValueError(
            f"got a corpus of {len(rows)} texts of {tokens} tokens, expected {documents}: ask for "
            "fewer documents, or name a larger corpus"
        )
    write_set(Path(folder), rows, questions)
    print(f"wrote {len(rows)} documents with {needles} questions each to {folder}")


def long_texts(texts: Iterator[str], tokenizer, tokens: int) -> Iterator[str]:
    """Join texts and cut them, between sentences, to at most so many tokens each."""
    while joined := "\n".join(islice(texts, max(200, tokens // 20))):
        chunks = chunk_documents([Document(joined)], tokenizer, tokens)
        yield from (chunk.text for chunk in chunks)


def draw_facts(draw: random.Random, count: int, test: bool) -> list[tuple[str, str, str]]:
    """Draw facts on different invented things: (fact, question for it, its answer, a number).

    Raises:
        ValueError: more than there are names and things.
    """
    things, names = THINGS, NAMES
    if not test:  # as many names as facts, so that there are pairs enough; none is drawn twice
        things = TRAINING_THINGS
        names = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 3))) for _ in range(count)]
    pairs = list(product(things, dict.fromkeys(name.capitalize() for name in names)))
    if count > len(pairs):
        raise ValueError(f"got {count} needles, expected {len(pairs)} or fewer a text: lower them")
    facts = []
    for thing, name in draw.sample(pairs, count):
        number, subject = (
            str(draw.randint(10_000, 99_999)),
            f"secret number of the {thing} of {name}",
        )
        facts.append((f"The {subject} is {number}.", f"What is the {subject}?", number))
    return facts


def insert(text: str, fact: str, depth: float) -> str:
    """Put a fact between two sentences at this depth (0 to 1)."""
    # The next end of a sentence; the end of the text where there is none.
    place = text.find(". ", int(depth * len(text)))
    return f"{text} {fact}" if place < 0 else f"{text[: place + 2]}{fact} {text[place + 2 :]}"
