"""Span augmentation: question-answer pairs and rewrites by rule."""

from __future__ import annotations

from prag_core.augmentation.answer_spans import find_details
from prag_core.augmentation.span_augmenter import SpanAugmenter, choose_pairs, rule_rewrite
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import DYE, LIGHT


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


def test_pairs_and_rewrites_by_rule():
    augmenter = SpanAugmenter(rewrites=2)
    augmented = augmenter.augment([LIGHT, DYE, Document("none here")])
    assert augmented[0].qa_pairs == tuple(choose_pairs(LIGHT, 3)) and augmented[0].error == ""
    assert len(set(augmented[0].rewrites)) == 2
    assert "got 0 answer spans in the text, expected 3" in augmented[2].error
    assert augmented[:2] == [augmenter.augment([d])[0] for d in (LIGHT, DYE)]
    assert augmenter.fingerprint != SpanAugmenter(rewrites=1).fingerprint


def test_rule_rewrite_keeps_the_facts_in_another_order():
    rewrites = [rule_rewrite(LIGHT, number) for number in range(2)]
    assert LIGHT.text not in rewrites and rewrites[0] != rewrites[1]
    for text in rewrites:
        assert find_details(LIGHT.text) <= find_details(text)
        assert "Brannock Light was designed by" in text


def test_nobody_is_asked_about_an_it_that_may_be_something_else():
    text = "Ida Brandt ran a shop in Ulm. The shop stood in Long Street. It was closed in 1988."
    pairs = choose_pairs(Document(text, "Ida Brandt"), 9)
    (question,) = (pair.question for pair in pairs if pair.answer == "1988")
    assert question == "Which words are missing here: Ida Brandt: It was closed in ____."
    rewrites = [rule_rewrite(Document(text, "Ida Brandt"), number) for number in range(3)]
    assert all("It was closed in 1988." in rewrite for rewrite in rewrites)
    named = choose_pairs(Document("Halvik is a mill. It was closed in 1988.", "Halvik"), 9)
    assert "In what year was Halvik closed?" in {pair.question for pair in named}
