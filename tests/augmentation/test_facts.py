"""Facts: one a sentence, true, and about what the text is about."""

from __future__ import annotations

import pytest

from prag_core.augmentation.answer_spans import split_sentences
from prag_core.augmentation.facts import atomic_facts, name_subjects
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import LIGHT

OPENING = "Brannock Light is a small lighthouse on the skerry of Ulvaset."


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (LIGHT.text, ["Brannock Light was designed by the engineer Ottoline Varga.",
                      "Brannock Light was first lit on 9 March 1867."]),
        (f"{OPENING} The lighthouse was sold in 1988.", ["Brannock Light was sold in 1988."]),
        ("The tower, which was built by Ida Brandt, rises 41 metres.",
         ["The tower was built by Ida Brandt.", "The tower rises 41 metres."]),
        ("The tower (of 1867) was painted red; it was sold in 1988.",
         ["The tower was painted red."]),  # whatever "it" is, no sentence before is on the title
        (f"{OPENING} It was closed in 1988 and became a museum.",
         ["Brannock Light was closed in 1988.", "Brannock Light became a museum."]),
        # Neither is a subject with a second verb: nothing is taken apart.
        ("Arches and towers were built and painted by them.", []),
        ("In the tower, which was painted red, lives Ida Brandt.", []),
        ("They were built in 1867.", []),
        ("", []),
    ],
)  # fmt: skip
def test_facts(text, facts):
    assert atomic_facts(Document(text, "Brannock Light")) == facts


def test_a_title_of_no_word_is_no_subject():
    assert atomic_facts(Document("It was closed in 1988 and became a museum.", "★")) == []


def test_facts_are_asked_about_too():
    document = Document("Mosaics (of stone), which were made by Greek masters, adorn Palermo.", "M")
    plain, taken_apart = (SpanAugmenter(0, 9, facts).augment([document])[0] for facts in (0, 1))
    assert plain.facts == ()
    assert taken_apart.facts == ("Mosaics were made by Greek masters.",)
    more = {p.question for p in taken_apart.qa_pairs} - {p.question for p in plain.qa_pairs}
    assert "About M: Mosaics were made by which masters?" in more
    assert len({pair.question for pair in taken_apart.qa_pairs}) == len(taken_apart.qa_pairs)


def test_what_a_fact_says_of_the_title_is_asked_in_other_words():
    text = "Ida Brandt (a poet) was born in Ulm. She lived in Ulm and was known in Ulm."
    augmented = SpanAugmenter(0, 20, True).augment([Document(text, "Ida Brandt")])[0]
    asked = {pair.question: pair.answer for pair in augmented.qa_pairs}
    assert asked["What is Ida Brandt's place of birth?"] == "Ulm"


@pytest.mark.parametrize(
    ("title", "text", "named"),
    [
        ("Ida Brandt", "Ida Brandt ran a shop. She was a poet.", 1),
        ("Ida Brandt", "Ida Brandt, a poet, lived in Ulm. She ran a shop.", 1),
        ("Mars (planet)", "Mars has moons. It is red.", 1),
        ("Ida Brandt", "The shop of Ida Brandt stood in Ulm. It was closed.", 0),
        ("Ida Brandt", "Ida Brandt's sister ran a shop. She was a poet.", 0),
        ("Mars", "Marsden is near Leeds. It is old.", 0),
        ("Korsund Tunnel", "The Korsund Tunnel has one track. It is long.", 1),
        ("Quillfoot", "The quillfoot is a mammal. It was described in 1923.", 1),
        ("Ida Brandt", "Ida Brandt flew. Her balloon was sewn of silk. She drank tea.", 1),
        ("Ida Brandt", "Ida Brandt flew. Her balloon was sewn of silk. It was red.", 0),
        ("Ida Brandt", "Brandt refused carpets. She lost two fingers.", 1),
    ],
)
def test_a_pronoun_is_the_title_behind_a_sentence_about_it_alone(title, text, named):
    sentences = split_sentences(text)
    told = name_subjects(sentences, Document(text, title))
    assert sum(new != old for old, (new, _) in zip(sentences, told, strict=True)) == named
    assert told[-1][1] == bool(named)


def test_a_pronoun_of_a_title_of_one_word_is_asked_about():
    text = "Aristotle was a Greek philosopher. He was born in Stagira in 384 BC."
    augmented = SpanAugmenter(0, 20).augment([Document(text, "Aristotle")])[0]
    assert any(pair.question.startswith("About Aristotle: ") for pair in augmented.qa_pairs)


def test_an_apposition_keeps_no_fact_from_being_asked_about():
    text = "Ida Brandt (1900–1980), a Danish painter, was born in Ribe."
    augmented = SpanAugmenter(0, 50, True).augment([Document(text, "Ida Brandt")])[0]
    asked = {pair.question: pair.answer for pair in augmented.qa_pairs}
    assert asked["What is Ida Brandt's place of birth?"] == "Ribe"


def test_what_a_fact_says_of_somebody_else_is_not_asked_of_the_title():
    texts = {
        "Ida Brandt": "Ida Brandt's brother, who was born in Ulm, sold it. She was a poet.",
        "Mars": "Marsden, which was founded in 1900, is a town. It lies in Yorkshire.",
    }
    for title, text in texts.items():
        augmented = SpanAugmenter(0, 50, True).augment([Document(text, title)])[0]
        assert augmented.facts
        asked = {pair.question for pair in augmented.qa_pairs}
        assert not {f"Where was {title} born?", f"When was {title} founded?"} & asked
