"""Prompts: what a model is asked, with and without passages, chat template and examples."""

from __future__ import annotations

import pytest

from prag_core.augmentation.augmented import AugmentedDocument, QAPair, augmented_passage
from prag_core.corpus.documents import Document
from prag_core.model.prompts import EXAMPLES, chat, extract_answer, format_passages, question_prompt
from tests.fixtures.tiny import byte_tokenizer

TARN = Document("Tarn lies {north} of Oss.", "Tarn")
OSS = Document("Oss has a mill.")


def test_passages_are_numbered_and_titled():
    assert format_passages([TARN, OSS]) == (
        "Passage 1: Tarn: Tarn lies {north} of Oss.\nPassage 2: Oss has a mill."
    )


def test_closed_book_prompt_is_the_question_in_the_chat_template():
    prompt = question_prompt(byte_tokenizer(), "Where is {Tarn}?")
    assert prompt == (
        "<u>Answer the question with a short phrase.\n\nQuestion: Where is {Tarn}?<e><a>"
    )


def test_passages_come_before_the_question_braces_and_all():
    prompt = question_prompt(byte_tokenizer(), "Where is {Tarn}?", [TARN, OSS])
    assert (
        prompt.index("{north}") < prompt.index("Passage 2: Oss") < prompt.index("Where is {Tarn}")
    )
    assert prompt.count("<u>") == prompt.count("<a>") == 1


def test_chain_of_thought_shows_the_examples_with_their_conclusions():
    prompt = question_prompt(byte_tokenizer(), "Where?", [TARN], style="cot")
    for question, _, answer in EXAMPLES:
        assert prompt.index(question) < prompt.index(f"So the answer is {answer}.")
        assert prompt.index(answer) < prompt.index("Question: Where?")


def test_tokenizer_without_template_gets_plain_text():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert chat(tokenizer, "Where?") == "<s>Where?\nAnswer:"
    tokenizer.bos_token = None
    assert chat(tokenizer, "Where?") == "Where?\nAnswer:"


def test_template_is_told_not_to_think():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% if enable_thinking is false %}quiet{% endif %}"
    assert chat(tokenizer, "Where?") == "quiet"


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"got prompt style 'poem', expected one of \['direct'"):
        question_prompt(byte_tokenizer(), "Where?", style="poem")


def test_augmented_passage_holds_text_rewrites_and_pairs():
    augmented = AugmentedDocument(TARN, ("North of Oss is Tarn.",), (QAPair("Where?", "north"),))
    passage = augmented_passage(augmented)
    assert passage.title == "Tarn"
    assert passage.text.splitlines() == [
        "Tarn lies {north} of Oss.",
        "North of Oss is Tarn.",
        "Question: Where? Answer: north",
    ]


@pytest.mark.parametrize(
    ("text", "style", "answer"),
    [
        ("He was born in Tarn. So the answer is Tarn.", "cot", "Tarn"),
        ("So the answer is A. No. So the answer is B. ", "cot", "B"),
        ("Tarn.", "cot", "Tarn."),
        ("So the answer is Tarn.", "direct", "So the answer is Tarn."),
    ],
)
def test_extract_answer(text, style, answer):
    assert extract_answer(text, style) == answer
