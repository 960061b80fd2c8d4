"""Writing augmenter: the model's questions come first, those that it answers wrong go."""

from __future__ import annotations

import pytest

from prag_core.augmentation import (
    fact_writer,
    question_writer,
    reading_check,
    self_augmenter,
    writing_augmenter,
)
from prag_core.augmentation.augmented import CachedAugmenter, QAPair
from prag_core.augmentation.span_augmenter import SpanAugmenter, choose_pairs
from prag_core.augmentation.writing_augmenter import WritingAugmenter
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import LIGHT
from tests.fixtures.tiny import tiny_model

ANSWERS = {
    "Which engineer drew Brannock Light?": ("Ottoline Varga", "It was Ottoline Varga."),
    "Who was the last to keep Brannock Light?": ("Josiah Trewin", "Ottoline Varga"),
    "How tall is Brannock Light?": ("41 metres", "41"),
}

FACT_ANSWER = ("What was the rock's colour?", "red")  # of a question on a fact


@pytest.fixture
def calls(monkeypatch):
    """Let the model write all questions in each kind, and answer as given."""
    calls = []

    def write(base, prompts, options, prefixes=None):
        calls.append("write")
        reply = "\n".join(f"{n}. {a} | {q}" for n, (q, (a, _)) in enumerate(ANSWERS.items(), 1))
        return [reply.removeprefix("1. ")] * len(prompts)

    def read(base, prompts, adapter, options, prefixes):
        assert adapter is None
        assert all("Passage 1: Brannock Light: Brannock Light is a" in prompt for prompt in prompts)
        assert len({id(prefix) for prefix in prefixes}) == 1  # the passage is read once
        read = {q: a for q, (_, a) in ANSWERS.items()} | dict([FACT_ANSWER])
        return [next(a for q, a in read.items() if q in prompt) for prompt in prompts]

    monkeypatch.setattr(question_writer, "generate_fitting", write)
    monkeypatch.setattr(self_augmenter, "generate_fitting", lambda b, prompts, o: [None])
    monkeypatch.setattr(
        fact_writer, "generate_fitting", lambda b, prompts, *_: [None] * len(prompts)
    )
    monkeypatch.setattr(reading_check, "generate", read)
    return calls


def test_a_fact_stays_where_a_question_on_it_is_answered_alike(calls, monkeypatch):
    base = tiny_model()
    base.model.config.max_position_embeddings = 8192
    right, wrong, unasked = "It is red.", "It is blue.", "It stands."
    monkeypatch.setattr(
        writing_augmenter, "write_facts", lambda b, ds, n: [(wrong, right, unasked)]
    )
    question, answer = FACT_ANSWER
    asked = {
        wrong: [QAPair(question, "Josiah Trewin")],  # read otherwise
        right: [QAPair(question, answer), QAPair("How tall is Brannock Light?", "9 metres")],
        unasked: [],
    }
    monkeypatch.setattr(writing_augmenter, "ask_about", lambda fact, title, most: asked[fact])
    writer = WritingAugmenter(base, rewrites=0, qa_pairs=9, facts=True)
    (augmented,) = writer.augment([LIGHT])
    ruled = SpanAugmenter(0, 9, True).augment([LIGHT])[0]
    assert augmented.facts == (right, *ruled.facts)
    assert len({pair.question for pair in augmented.qa_pairs}) == len(augmented.qa_pairs) == 9
    assert QAPair(question, answer) in augmented.qa_pairs
    assert QAPair(question, "Josiah Trewin") not in augmented.qa_pairs


def test_questions_that_the_model_answers_wrong_go_and_rules_fill_up(calls, store):
    base = tiny_model()
    base.model.config.max_position_embeddings = 8192
    writer = WritingAugmenter(base, rewrites=1, qa_pairs=9, facts=True)
    cached = CachedAugmenter(writer, store)
    (augmented,) = cached.augment([LIGHT])
    questions = [pair.question for pair in augmented.qa_pairs]
    assert questions[:2] == [*ANSWERS][::2]
    ruled = choose_pairs(LIGHT, 9, augmented.facts)
    assert questions[2:] == [pair.question for pair in ruled][:7]
    assert len(augmented.facts) == 2
    assert augmented.error == "got no rewrite that keeps the facts"
    before = len(calls)
    assert cached.augment([LIGHT]) == [augmented]  # facts included
    assert len(calls) == before
    others = [{"rewrites": 0}, {"qa_pairs": 8}, {"facts": False}]
    made = [WritingAugmenter(base, **{"rewrites": 1, "qa_pairs": 9, "facts": True} | change)
            for change in others]  # fmt: skip
    assert len({writer.fingerprint, *(one.fingerprint for one in made)}) == 4


def test_a_document_beyond_the_context_is_read_as_far_as_it_goes(tiny_base, monkeypatch):
    monkeypatch.setattr(
        writing_augmenter, "write_facts", lambda b, ds, n: [("A keeper kept goats.",)] * len(ds)
    )
    pairs = [QAPair("Who kept goats?", "keeper"), QAPair("Who? " * 500, "keeper")]
    monkeypatch.setattr(writing_augmenter, "ask_about", lambda fact, title, most: pairs)
    monkeypatch.setattr(
        reading_check, "generate", lambda b, prompts, *_: ["a keeper"] * len(prompts)
    )
    long = Document("A keeper kept goats. " * 200, "Goats")
    (augmented,) = WritingAugmenter(tiny_base, 0, 3, facts=True).augment([long])
    assert augmented.document == long and augmented.qa_pairs[0] == pairs[0]
    assert pairs[1] not in augmented.qa_pairs


@pytest.mark.parametrize("rewrites", [0, 1])
def test_how_rewrites_are_asked_for_is_in_the_fingerprint(tiny_base, monkeypatch, rewrites):
    prints = {WritingAugmenter(tiny_base, rewrites, 3, False).fingerprint}
    for name in ("REWRITE", "REWRITE_VERSION"):
        with monkeypatch.context() as patched:
            patched.setattr(writing_augmenter, name, "other")
            prints.add(WritingAugmenter(tiny_base, rewrites, 3, False).fingerprint)
    assert len(prints) == 1 + 2 * rewrites
