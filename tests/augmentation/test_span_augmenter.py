"""Span augmentation: pairs by rule, checked questions and rewrites by the model."""

from __future__ import annotations

import pytest

from prag_core.augmentation import span_augmenter as span_augmentation
from prag_core.augmentation.answer_spans import find_details
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.span_augmenter import (
    SpanAugmenter,
    choose_pairs,
    is_plausible,
    rule_rewrite,
)
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import DYE, LIGHT


def scripted(monkeypatch, *replies):
    """Let each call of the model answer every prompt with the next reply."""
    calls = []

    def fake(base, prompts, options):
        reply = replies[min(len(calls), len(replies) - 1)]
        calls.append((list(prompts), options))
        return [reply(p) if callable(reply) else reply for p in prompts]

    monkeypatch.setattr(span_augmentation, "generate_fitting", fake)
    return calls


def test_pairs_are_true_and_distinct_and_do_not_give_the_answer_away():
    pairs = choose_pairs(LIGHT, 6)
    assert len(pairs) == 6 and len({p.question for p in pairs}) == 6
    for pair in pairs:
        assert pair.answer in LIGHT.text and pair.answer not in pair.question


def test_gap_where_the_rules_have_no_question():
    document = Document("Although Wexmoor is wet, nobody ever leaves.", "Rain")
    pair = choose_pairs(document, 1)[0]
    assert pair.question.startswith("Which words are missing here: Rain: ")
    assert "____" in pair.question and pair.answer not in pair.question


def test_span_augmenter_needs_no_model_by_default(monkeypatch, tiny_base):
    monkeypatch.setattr(span_augmentation, "generate_fitting", lambda *a: ["" for _ in a[1]])
    augmented = SpanAugmenter(tiny_base, rewrites=2).augment([LIGHT, DYE, Document("none here")])
    assert augmented[0].qa_pairs == tuple(choose_pairs(LIGHT, 3)) and augmented[0].error == ""
    assert len(set(augmented[0].rewrites)) == 2
    assert "got 0 answer spans in the text, expected 3" in augmented[2].error


def test_model_questions_are_kept_only_when_answered_right(monkeypatch, tiny_base):
    document = Document("The light of Brannock was finished by the navy in 1867.", "Brannock")
    plain = choose_pairs(document, 1)[0]
    assert plain.answer == "1867"
    for said, kept in (("It was in 1867", True), ("1868", False)):
        scripted(monkeypatch, "did the navy finish Brannock's light?", said)
        pair = SpanAugmenter(tiny_base, 0, 1, rephrased=1).augment([document])[0].qa_pairs[0]
        assert (pair.question == "In what year did the navy finish Brannock's light?") is kept
        assert kept or pair == plain


@pytest.mark.parametrize(
    ("question", "plausible"),
    [
        ("How many metres does the tower rise above the rock?", True),
        ("How many metres does the tower rise above the rock", False),
        ("How many of the 41 metres of the tower rise above the rock?", False),
        ("How many metres does the castle rise above the rock?", False),
        ("How many keepers were there?", False),
    ],
)
def test_is_plausible(question, plausible):
    pair = QAPair("The tower rises how many metres above the rock?", "41")
    assert is_plausible(question, pair, LIGHT) is plausible


def test_batched_equals_one_by_one(tiny_base):
    augmenter = SpanAugmenter(tiny_base, rewrites=1, qa_pairs=2, rephrased=1)
    assert augmenter.augment([LIGHT, DYE]) == [augmenter.augment([d])[0] for d in (LIGHT, DYE)]


def test_rule_rewrite_keeps_the_facts_in_another_order():
    rewrites = [rule_rewrite(LIGHT, number) for number in range(2)]
    assert LIGHT.text not in rewrites and rewrites[0] != rewrites[1]
    for text in rewrites:
        assert find_details(LIGHT.text) <= find_details(text)
        assert "Brannock Light was designed by" in text


def test_model_rewrites_that_are_refused_are_replaced(monkeypatch, tiny_base):
    monkeypatch.setattr(span_augmentation, "ask_rewrites", lambda *_: [["A rewrite.", ""]])
    augmenter = SpanAugmenter(tiny_base, rewrites=2, model_rewrites=True)
    assert augmenter.augment([LIGHT])[0].rewrites == ("A rewrite.", rule_rewrite(LIGHT, 1))
