"""Needle in a haystack: long texts with one odd fact go in, the share of facts found comes out.

The text is cut into chunks, each chunk becomes an adapter, and all are merged: the base model never
sees a prompt longer than the question. Beside it stands retrieval of the one best chunk (BM25).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.training.sources import corpus_file
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.chunking import chunk_documents
from prag_core.corpus.documents import Document, iter_documents
from prag_core.evaluation.estimates import bootstrap_interval
from prag_core.model.base_model import EMBEDDED_NAME, load_base_model
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.generate import generate
from prag_core.model.prompts import question_prompt
from prag_core.retrieval.bm25 import make_retriever

NAMES = ("Ostrel", "Quellamar", "Veldin", "Tarnmoor", "Brisk", "Ulvena", "Corrick", "Maduin")
THINGS = ("bridge", "harbour", "library", "windmill", "observatory", "orchard", "lighthouse")
TRAINING_THINGS = ("tower", "school", "mill", "garden", "market", "palace", "station", "theatre",
                   "quarry", "abbey", "tunnel", "castle")  # fmt: skip
SYLLABLES = ("ba", "den", "fir", "gol", "hes", "jun", "kar", "lom", "mir", "nor", "pel", "rus",
             "sol", "tam", "vor", "wen", "yar", "zel")  # fmt: skip
TRAINING_START = 2_000  # documents of a corpus before it are the haystacks' (see `needle`)
OPTIONS = GenerationOptions(max_new_tokens=32)


def needle(
    corpus: str,
    weights: str = "smollm2-135m-ridge",
    base_model: str = EMBEDDED_NAME,
    tokens: int = 32_000,
    needles: int = 20,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Hide a number in a long text, make the whole text one adapter, and ask for the number.

    Args:
        corpus: folder or file of documents that the haystack is made of.
        weights: exported checkpoint.
        base_model: the model that it belongs to.
        tokens: length of the haystack.
        needles: haystacks tried, each with its own fact at its own depth.
        seed: of the facts and their places.
        output: file for the result as JSON.
    """
    base = load_base_model(base_model)
    parametrizer = HypernetParametrizer.from_pretrained(weights, base)
    documents = iter_documents(corpus_file(corpus))
    text = haystack([d.text for d in islice(documents, tokens // 20)], base.tokenizer, tokens)
    draw, found = random.Random(seed), {"merged": [], "retrieved": [], "closed_book": []}
    for number in range(needles):
        fact, question, answer = hide(draw)
        hidden = insert(text, fact, (number + 0.5) / needles)
        chunks = chunk_documents([Document(hidden)], base.tokenizer, 300, 0)
        best = make_retriever("auto", chunks).retrieve([question], 1)[0][0].document_id
        chosen = [Document(hidden), next(c for c in chunks if c.id == best)]
        adapters = [*parametrizer.parametrize(chosen), None]
        texts = generate(base, [question_prompt(base.tokenizer, question)] * 3, adapters, OPTIONS)
        for condition, said in zip(found, texts, strict=True):
            found[condition].append(score_answer(said, [answer]).containment)
        print(json.dumps({"question": question, "answer": answer, "texts": texts}), flush=True)
    result = {"tokens": tokens, "needles": needles}
    for condition, values in found.items():
        low, high = bootstrap_interval(values)
        result[condition] = [round(x, 4) for x in (sum(values) / len(values), low, high)]
    print(json.dumps(result))
    if output:
        Path(output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def needle_set(
    corpus: str,
    folder: str,
    documents: int = 4_000,
    tokens: int = 340,
    base_model: str = EMBEDDED_NAME,
    seed: int = 1,
) -> None:
    """Write a question set to train on: chunks of a corpus, a fact as in `needle` hidden in each.

    Names and things are others than those of `needle`, and so is the part of the corpus.

    Args:
        corpus: folder or file of documents that the chunks are made of.
        folder: where corpus.jsonl and questions.jsonl are written.
        documents: how many.
        tokens: of a chunk, at most, without its fact.
        base_model: whose tokens they are.
        seed: of the facts and their places.

    Raises:
        ValueError: too little text.
    """
    tokenizer, draw = load_base_model(base_model).tokenizer, random.Random(seed)
    texts = (d.text for d in islice(iter_documents(corpus_file(corpus)), TRAINING_START, None))
    rows, questions = [], []
    while len(rows) < documents:
        joined = "\n".join(islice(texts, 200))
        if not joined:
            raise ValueError(
                f"got a corpus of {len(rows)} chunks after its first {TRAINING_START} documents, "
                f"expected {documents}: ask for fewer documents, or name a larger corpus"
            )
        for chunk in chunk_documents([Document(joined)], tokenizer, tokens):
            name = "".join(draw.choices(SYLLABLES, k=draw.randint(2, 3))).capitalize()
            fact, question, answer = hide(draw, TRAINING_THINGS, (name,))
            key = str(len(rows))
            rows.append({"id": key, "text": insert(chunk.text, fact, draw.random())})
            questions.append(
                {"id": key, "question": question, "golden_answers": [answer], "gold_ids": [key]}
            )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, records in (("corpus", rows), ("questions", questions)):
        lines = "".join(json.dumps(record) + "\n" for record in records[:documents])
        (Path(folder) / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print(f"wrote {documents} documents with a question each to {folder}")


def haystack(texts: Sequence[str], tokenizer, tokens: int) -> str:
    """Join texts until they have so many tokens.

    Raises:
        ValueError: too little text.
    """
    joined = "\n".join(texts)
    ids = tokenizer(joined, add_special_tokens=False).input_ids
    if len(ids) < tokens:
        raise ValueError(f"got a corpus of {len(ids)} tokens, expected {tokens}: name a larger one")
    return tokenizer.decode(ids[:tokens])


def hide(
    draw: random.Random, things: Sequence[str] = THINGS, names: Sequence[str] = NAMES
) -> tuple[str, str, str]:
    """Return a fact on an invented thing, a question for it, and the answer, a number."""
    thing, name, number = draw.choice(things), draw.choice(names), str(draw.randint(10_000, 99_999))
    fact = f"The secret number of the {thing} of {name} is {number}."
    return fact, f"What is the secret number of the {thing} of {name}?", number


def insert(text: str, fact: str, depth: float) -> str:
    """Put a fact between two sentences at this depth (0 to 1)."""
    place = text.find(". ", int(depth * len(text)))
    place = len(text) if place < 0 else place + 2
    return f"{text[:place]}{fact} {text[place:]}"
