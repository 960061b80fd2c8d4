"""Fact writer: what a model says of a sentence is kept where the sentence says it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.augmentation import fact_writer
from prag_core.augmentation.answer_spans import split_sentences
from prag_core.augmentation.fact_writer import EXAMPLES, read_facts, states, write_facts
from prag_core.corpus.documents import Document
from prag_core.model.base_model import load_base_model
from tests.fixtures.invented_documents import LIGHT
from tests.fixtures.tiny import tiny_model

ATTACKED = (
    "In November 2014, Sony Pictures was attacked by hackers, who released letters of its heads."
)


@pytest.mark.parametrize(
    ("fact", "stated"),
    [
        ("Sony Pictures was attacked by hackers in November 2014.", True),  # a date may move
        ("Hackers released letters of Brannock Light's heads.", True),  # "its"
        ("Sony Pictures released letters.", True),  # false, but in order: its question tells
        ("Heads released letters.", False),  # turned round
        ("Sony Pictures was attacked by hackers in November 2013.", False),  # another number
        ("Sony Pictures was attacked by Ottoline Varga.", False),  # another name
        ("Örjan was attacked by hackers.", False),  # also of another alphabet, and in front
        ("Sony Pictures was not attacked by hackers.", False),
        ("Hackers sold the stolen letters abroad.", False),  # most of it is new
        ("Brannock Light is it.", False),  # nothing of the sentence
    ],
)
def test_a_fact_has_the_words_of_its_sentence_in_their_order(fact, stated):
    assert states(ATTACKED, "Brannock Light", fact) is stated


@pytest.mark.parametrize(
    ("sentence", "title", "fact", "stated"),
    [
        ("He called them empty.", "Karl Popper", "Karl Popper called them empty.", True),
        ("Some claims cannot be tested.", "Karl Popper", "Karl Popper can be tested.", False),
        ("She never studied in Lund.", "Ida Brandt", "Ida Brandt studied in Lund.", False),
        ("She never studied in Lund.", "Ida Brandt", "Ida Brandt never studied in Lund.", True),
        ("He can’t swim in Lund.", "Ida Brandt", "Ida Brandt can swim in Lund.", False),
        ("It carried three men.", "Apollo 11", "Apollo 11 carried three men.", True),
        ("Apollo 11 carried three men.", "Apollo 11", "Apollo 11 carried three men.", True),
        ("It carried three men.", "Apollo 11", "Apollo 11 carried 11 men.", False),
        ("Her brother was Jonas.", "Ida Brandt", "Ida Brandt's brother was Jonas.", True),
        ("The size was 3.20, not 3.", "", "The size was not 3.20.", True),  # no parts of numbers
        ("Ihr Bruder war Jörg.", "", "Bruder war Jörg.", True),  # a text without a title
    ],
)
def test_the_title_stands_for_a_pronoun_alone(sentence, title, fact, stated):
    assert states(sentence, title, fact) is stated


def test_examples_keep_the_rules():
    for title, sentence, facts in EXAMPLES:
        document = Document(sentence, title)
        text = "\n".join(f"{number}. {fact}" for number, fact in enumerate(facts, 1))
        kept = read_facts(text.removeprefix("1. "), sentence, document)
        assert kept == list(facts), title


def test_what_the_text_says_itself_or_cannot_stand_alone_goes():
    sentence = "It was first lit in 1867, and the keeper kept goats."
    document = Document(f"Brannock Light is old. {sentence}", "Brannock Light")
    reply = "Brannock Light was first lit in 1867\n2. It was first lit in 1867.\n3. Goats.\nfour"
    assert read_facts(reply, sentence, document) == ["Brannock Light was first lit in 1867."]
    for reply in ("The keeper kept goats.", "Was Brannock Light lit in 1867?"):
        assert read_facts(reply, sentence, document) == [], reply


def test_facts_come_in_the_order_of_the_text_and_once(monkeypatch):
    seen = []

    def write(base, prompts, options, prefixes):
        assert len(prompts) == len(prefixes)
        seen.extend(prompts)
        lit = "Brannock Light was lit and blessed in 1867."
        both = f"{lit}\n2. Keepers in 1867 had sheep."
        return [None if "Goats" in p else lit if "bishop" in p else both for p in prompts]

    monkeypatch.setattr(fact_writer, "generate_fitting", write)
    base = tiny_model()
    first = "It was, as a bishop who came by boat wrote, lit and blessed in 1867."
    last = "It was lit and blessed, and keepers had some sheep in 1867."
    document = Document(f"{first} Goats. {last}", LIGHT.title)
    empty = replace(document, text="")
    facts = write_facts(base, [document, empty], batch_size=2)
    assert facts == [
        ("Brannock Light was lit and blessed in 1867.", "Keepers in 1867 had sheep."),
        (),
    ]
    assert len(seen) == 3


def test_a_line_is_a_fact_by_itself_and_half_of_one_none():
    sentence = "It was first lit in 1867, and the keeper kept goats."
    document = Document(sentence, "Brannock Light")
    lit = "Brannock Light was first lit in 1867."
    assert read_facts(f"Goats.\n2.\n3. {lit}", sentence, document) == [lit]  # an empty one
    cut = f"{lit}\n2. The keeper kept in 1867"
    assert read_facts(cut, sentence, document) == [lit]


def test_a_sentence_has_a_limit_of_its_own(monkeypatch):
    limits: list[dict[str, int]] = []

    def write(base, prompts, options, prefixes):
        limits.append(dict(zip(prompts, (row.max_new_tokens for row in options), strict=True)))
        return [None] * len(prompts)

    monkeypatch.setattr(fact_writer, "generate_fitting", write)
    short, long = Document("Goats.", "A"), Document("The keeper kept goats in 1867.", "B")
    for documents in ([short, long], [short]):
        write_facts(tiny_model(), documents)
    (prompt,) = limits[1]
    assert limits[0][prompt] == limits[1][prompt] == 2 * len(short.text) + 32  # a token a byte


@pytest.mark.slow
def test_the_embedded_model_writes_facts():
    (facts,) = write_facts(load_base_model(), [LIGHT])
    assert facts
    for fact in facts:
        assert any(states(s, LIGHT.title, fact) for s in split_sentences(LIGHT.text)), fact
        assert fact not in LIGHT.text
