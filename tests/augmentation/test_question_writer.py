"""Question writer: what is asked for, what is read out of a reply, and what rules object to.

Replies are scripted where their text matters: the tiny model writes none that can be read.
"""

from __future__ import annotations

import pytest

from prag_core.augmentation import question_writer
from prag_core.augmentation.question_options import KINDS
from prag_core.augmentation.question_writer import (
    QuestionWriter,
    WrittenQuestion,
    judge,
    read_reply,
)
from prag_core.corpus.documents import Document
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import prompt_ids
from tests.fixtures.tiny import tiny_model

BAKERY = Document(
    "The bakery of Ostrel was founded by Mira Kolven in 1931. Its oven burns beech wood.",
    "Ostrel bakery",
)
MILL = Document("The mill was sold to Jan Hovik in 1802 for 300 crowns.", "Old mill")


@pytest.fixture(scope="module")
def long_base():
    """The tiny model with room for the examples, of which every byte is a token."""
    base = tiny_model()
    base.model.config.max_position_embeddings = 8192
    return base


def scripted(monkeypatch, *replies):
    """Let each prompt be answered by the next reply, None being one beyond the context."""
    calls = []

    def fake(base, prompts, options, prefixes):
        calls.append((list(prompts), options, list(prefixes)))
        return list(replies[: len(prompts)])

    monkeypatch.setattr(question_writer, "generate_fitting", fake)
    return calls


def test_given_answers_are_numbered_and_the_title_is_none(monkeypatch, long_base):
    calls = scripted(monkeypatch, "", "")
    QuestionWriter(long_base, kinds=["plain"]).write([BAKERY, MILL])
    prompts, options, prefixes = calls[0]
    bakery, mill = (prompt.split("<u>")[-1] for prompt in prompts)
    assert bakery.startswith(
        f"Passage 1: Ostrel bakery: {BAKERY.text}\n\nWrite a question for each"
    )
    assert "what it is about:\n1. Mira Kolven\n2. 1931<e>" in bakery  # no phrase, nor "Ostrel"
    assert ":\n1. Jan Hovik\n2. 1802\n3. 300<e>" in mill
    assert options.temperature == 0 and prefixes[0].ids == prefixes[1].ids


def test_open_questions_are_asked_about_the_whole_passage(monkeypatch, long_base):
    calls = scripted(monkeypatch, "")
    QuestionWriter(long_base, 2, kinds=["open"]).write([BAKERY])
    asked = calls[0][0][0].split("<u>")[-1]
    assert f"Ostrel bakery: {BAKERY.text}" in asked and "Copy 2 short answers" in asked


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_read_once_and_change_nothing(kind, long_base, monkeypatch):
    calls = scripted(monkeypatch, "", "")
    QuestionWriter(long_base, kinds=[kind]).write([BAKERY, MILL])
    prompts, _, prefixes = calls[0]
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        ids = prompt_ids(long_base.tokenizer, prompt)
        assert tuple(ids[: len(prefix.ids)]) == prefix.ids
        assert "The Glass Harbour" in long_base.tokenizer.decode(prefix.ids)  # up to the last one
    if kind == "open":  # one is enough
        options = GenerationOptions(3)
        alone = generate(long_base, prompts[:1], options=options)
        assert generate(long_base, prompts[:1], None, options, prefixes[:1]) == alone


def test_replies_are_read_judged_and_limited(monkeypatch, long_base):
    reply = (
        "mira kolven | Who started the bakery in Ostrel?\n2. 1931 | When was it?\n"
        "3. Mira Kolven | Who started the bakery in Ostrel?\n4. Ostrel | More than was asked for?"
    )
    scripted(monkeypatch, reply, None)
    rows = QuestionWriter(long_base, 3, kinds=["plain"]).write([BAKERY, MILL])
    assert rows[1] == []  # beyond the context
    assert [(q.answer, q.problem) for q in rows[0]] == [
        ("Mira Kolven", ""),  # as the text has it
        ("1931", "question names nothing of the document"),
        ("Mira Kolven", "asked twice"),
    ]


def test_a_document_without_spans_is_not_asked_about(monkeypatch, long_base):
    calls = scripted(monkeypatch, "1802 | When was the mill sold?")
    rows = QuestionWriter(long_base, kinds=["plain"]).write([Document("nothing here"), MILL])
    assert len(calls[0][0]) == 1 and [len(row) for row in rows] == [0, 1]


def test_the_id_of_a_document_decides_its_kind(monkeypatch, long_base):
    documents = [Document(f"Person {n} came to Oslo in {1900 + n}.") for n in range(12)]
    reply = "Oslo | Where did Person go?"
    scripted(monkeypatch, *[reply] * 12)
    kinds = [row[0].kind for row in QuestionWriter(long_base).write(documents)]
    scripted(monkeypatch, *[reply] * 12)
    reversed_kinds = [row[0].kind for row in QuestionWriter(long_base).write(documents[::-1])]
    assert {*kinds} == {*KINDS} and reversed_kinds == kinds[::-1]


def test_a_real_model_beyond_its_context_writes_nothing(tiny_base):
    assert QuestionWriter(tiny_base, question_tokens=4).write([BAKERY]) == [[]]


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ("Oslo | Where?\n2. 1802 | When?", [("Oslo", "Where?"), ("1802", "When?")]),
        ('"Oslo." | Where?\n\nThat is all.', [("Oslo", "Where?")]),
        ("Oslo | no question\n2) 1802 | When?", [("1802", "When?")]),
        ("Where? Oslo\nsome text", []),
        ("", []),
    ],
)
def test_read_reply(reply, pairs):
    assert [(q.answer, q.question) for q in read_reply(reply, "plain")] == pairs


@pytest.mark.parametrize(
    ("question", "answer", "problem"),
    [
        ("Who started the Ostrel bakery?", "Mira Kolven", ""),
        ("Who started the Ostrel bakery?", "Mira Koln", "answer not in the text"),
        ("When was the Ostrel bakery founded?", "193", "answer not in the text"),  # no whole word
        ("What did Mira Kolven start?", "bakery of Ostrel", "answer is the title"),
        ("What of the Ostrel bakery?", BAKERY.text[:55], "answer too long"),
        ("Did Mira Kolven found the bakery?", "Mira Kolven", "question holds the answer"),
        ("Who started it?", "Mira Kolven", "question names nothing of the document"),
        ("Which mira made it?", "1931", "question names nothing of the document"),
        ("What did Mira make?", "1931", ""),  # named by the text, not by the title
        ("Who of the passage baked in Ostrel?", "Mira Kolven", "question speaks of the passage"),
    ],
)
def test_what_rules_object_to(question, answer, problem):
    assert judge(BAKERY, WrittenQuestion(question, answer, "plain")).problem == problem


def test_overlap_is_the_share_of_words_from_the_answers_sentence():
    def overlap(question, answer):
        return judge(BAKERY, WrittenQuestion(question, answer, "plain")).overlap

    assert overlap("Who founded the Ostrel bakery?", "Mira Kolven") == 1.0
    assert overlap("Who started the Ostrel bakery?", "Mira Kolven") == 0.0
    assert overlap("What wood burns in Ostrel's old oven?", "beech") == 0.6  # not s and old
    assert overlap("Who founded the Ostrel bakery?", "beech") == 0.0  # in another sentence


@pytest.mark.parametrize("options", [{"kinds": ["odd"]}, {"kinds": []}, {"per_document": 0}])
def test_unknown_kinds_and_no_questions_are_refused(options, tiny_base):
    with pytest.raises(ValueError, match=r"got kinds .* expected some of plain, reworded, open"):
        QuestionWriter(tiny_base, **options)


def test_the_fingerprint_follows_settings(tiny_base):
    writers = [QuestionWriter(tiny_base), QuestionWriter(tiny_base, 2)]
    writers += [QuestionWriter(tiny_base, kinds=["open"]), QuestionWriter(tiny_base, batch_size=2)]
    prints = [writer.fingerprint for writer in writers]
    assert len({*prints}) == 3 and prints[3] == prints[0]  # a batch's size changes no question


def test_an_empty_answer_does_not_take_the_next_line():
    read = read_reply("Ada | What?\n2.\n3. Mill | Who?", "plain")
    assert [(one.question, one.answer) for one in read] == [("What?", "Ada"), ("Who?", "Mill")]
