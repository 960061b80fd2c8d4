"""Fact writer: documents go in; a model's sentences of one fact each come out.

    document -> sentences -> model, which sees one at a time -> short sentences -> rules

The rules of facts.py cut a sentence only where that is safe. A model cuts every one, and puts the
name where the text has a pronoun. A small one mixes things up: from a whole passage it joins what
does not belong together, so it is given one sentence; who did what to whom it turns round, so what
it writes must have the sentence's words in the sentence's order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace

from prag_core.augmentation.answer_spans import (
    FUNCTION_WORDS,
    MONTHS,
    content_words,
    split_sentences,
    words,
)
from prag_core.augmentation.augmented import titled
from prag_core.augmentation.facts import stands_alone
from prag_core.augmentation.question_options import numbered
from prag_core.augmentation.self_augmenter import ends_sentence, generate_fitting
from prag_core.corpus.documents import Document
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import common_start, read_prefix
from prag_core.model.prompts import prompt_ids, question_prompt
from prag_core.model.wordings import Wording

EXAMPLES = (
    ("Tarn Point Lighthouse",
     "It was designed by Paul Renner, a ship builder, and lit for the first time in 1887.",
     ("Tarn Point Lighthouse was designed by Paul Renner.",
      "Paul Renner was a ship builder.",
      "Tarn Point Lighthouse was lit for the first time in 1887.")),
    ("Ida Brandt",
     "Her brother, Jonas Brandt, sold her first portraits, which showed fishermen, in his shop.",
     ("The brother of Ida Brandt was Jonas Brandt.",
      "Jonas Brandt sold the first portraits by Ida Brandt in his shop.",
      "The first portraits by Ida Brandt showed fishermen.")),
    ("Ellmarsh Island",
     "In 1954, critics attacked the council that let the Orne Company build a second harbour.",
     ("Critics attacked the council in 1954.",
      "The council let the Orne Company build a second harbour.")),
)  # fmt: skip
BARE = Wording(
    "facts",
    "Split this sentence into short ones of one fact each, that can be read alone, with names in "
    "place of pronouns.\n{passages}{question}",
    lead="1.",
)
WORDING = replace(
    BARE,
    turns=tuple(
        (BARE.fill(titled(title, sentence)), numbered(facts)) for title, sentence, facts in EXAMPLES
    ),
)
LINE = re.compile(r"^[^\S\n]*\d+[.)][^\S\n]*(\S.*?)[^\S\n]*$", re.MULTILINE)
PRONOUN = re.compile(r"\b(?:it|its|he|his|him|she|her|hers|they|their|them)\b", re.IGNORECASE)
# Of a date, which may stand elsewhere in a fact than in the sentence.
DATED = re.compile(rf"\d|^(?:{MONTHS.lower()})$")
WORD = re.compile(r"\w+(?:[.,]\d+)*")  # as `words` has them, in upper or lower case
GENITIVE = re.compile(r"['’]s\b")
DENIAL = re.compile(
    r"\b(?:not|no|never|nor|neither|cannot|without|against)\b|n['’]t\b", re.IGNORECASE
)
MOST_TOKENS = 256  # of what is written about one sentence
STATED = 0.7  # of a fact's content words, the title's left out, that its sentence must have
VERSION = 2  # of the rules below; part of the fingerprint


def facts_fingerprint(base: BaseModel) -> list[object]:
    """Name all that decides which facts a model writes, for an augmenter's fingerprint."""
    return ["facts", VERSION, base.fingerprint, STATED, asdict(WORDING)]


def write_facts(
    base: BaseModel, documents: Sequence[Document], batch_size: int = 32
) -> list[tuple[str, ...]]:
    """Let a model write each document's facts, and keep those that its sentences state.

    Args:
        base: the model that writes.
        documents: what it writes about; a sentence that the context has no room for gives no facts.
        batch_size: sentences written about together.

    Returns:
        Distinct sentences of each document, in the text's order, none that the text has itself.
    """
    jobs = [(n, s) for n, d in enumerate(documents) for s in split_sentences(d.text)]
    if not jobs:
        return [()] * len(documents)
    rows = [prompt_ids(base.tokenizer, _prompt(base, *pair)) for pair in ("AB", "CD")]
    examples = read_prefix(base, rows[0][: common_start(*rows)])  # read once for all sentences
    prompts = [_prompt(base, documents[n].title, sentence) for n, sentence in jobs]
    # A fact repeats the subject: twice the sentence, and a line's number and title. A limit each:
    # a sentence has the same facts whatever is written about beside it.
    most = min(MOST_TOKENS, max(1, base.context_length // 3))
    limits = (
        min(2 * len(ids) + 32, most)
        for ids in text_ids(base.tokenizer, [sentence for _, sentence in jobs])
    )
    options = [GenerationOptions(n, stop=("\n\n",), batch_size=batch_size) for n in limits]
    written = generate_fitting(base, prompts, options, [examples] * len(jobs))
    facts: list[dict[str, str]] = [{} for _ in documents]
    for (n, sentence), text in zip(jobs, written, strict=True):
        for fact in read_facts(text or "", sentence, documents[n]):
            facts[n].setdefault(fact.lower(), fact)
    return [tuple(row.values()) for row in facts]


def _prompt(base: BaseModel, title: str, sentence: str) -> str:
    return question_prompt(base.tokenizer, titled(title, sentence), [], WORDING)


def read_facts(text: str, sentence: str, document: Document) -> list[str]:
    """Read the numbered facts of a reply, behind the "1." that it begins with.

    A last line that does not end as the others do was cut off: half a fact is another one.

    Args:
        text: the reply.
        sentence: that it is about.
        document: whose text the sentence is of.
    """
    *lines, last = ("1. " + text.strip()).splitlines()
    if ends_sentence(last) or (lines and not ends_sentence(lines[-1])):
        lines.append(last)
    facts = [line.rstrip(" .") for line in LINE.findall("\n".join(lines))]
    known = document.text.lower()
    return [
        f"{fact}."
        for fact in facts
        if stands_alone(fact)
        and not fact.endswith("?")
        and fact.lower() not in known
        and states(sentence, document.title, fact)
    ]


def states(sentence: str, title: str, fact: str) -> bool:
    """Say whether a sentence has a fact's words, in their order.

    All names and numbers, most other words, and "not" in both or in none. Numbers and months may
    move; what stands in the title may be new where the sentence has a pronoun for it.

    Args:
        sentence: of a document.
        title: of the document.
        fact: what is said to stand in the sentence.
    """
    about, fact, sentence = content_words(title), *(GENITIVE.sub("", s) for s in (fact, sentence))
    said = words(sentence)
    asked = [word for word in words(fact) if word not in FUNCTION_WORDS | about]
    found = [word for word in asked if word in said]
    rest = iter(said)
    ordered = all(word in rest for word in found if not DATED.search(word))
    meant = not (content_words(fact) & about) - {*said} or PRONOUN.search(sentence)
    # Behind the title: "Apollo 11" does not say that there were 11.
    bare = WORD.findall(fact.replace(title, "") if title else fact)
    names = {word.lower() for word in bare if not word[0].islower()} - FUNCTION_WORDS
    new = {word for word in names if word not in about or word.isdigit()} - {*said}
    return bool(
        found
        and ordered
        and meant
        and not new
        and bool(DENIAL.search(fact)) == bool(DENIAL.search(sentence))
        and len(found) >= STATED * len(asked)
    )
