"""Trained writer: its lists are read as they are written; its questions come before the rules'."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import AdapterSpec
from prag_core.augmentation import question_lists, reading_check
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.question_lists import ListAugmenter, read_list, write_list
from prag_core.augmentation.span_augmenter import choose_pairs
from prag_core.corpus.documents import Document
from prag_core.model.attach import attached
from prag_core.model.prefix import kept_prefix
from prag_core.model.wordings import WORDINGS
from tests.fixtures.invented_documents import LIGHT
from tests.fixtures.tiny import random_adapter

SENTENCE = WORDINGS["sentence"]
PAIRS = [
    QAPair("Which engineer drew Brannock Light?", "Ottoline Varga"),
    QAPair("How tall is the lighthouse?", "41 metres"),
]


@pytest.fixture
def writer(tiny_base):
    return random_adapter(AdapterSpec(tiny_base.fingerprint, 2, 2, layers=(0, 1)), tiny_base)


def test_a_list_is_read_as_it_was_written():
    loose = [QAPair("Which  engineer drew Brannock Light", "Ottoline Varga\n"), PAIRS[1]]
    assert write_list(loose) == write_list(PAIRS)
    assert read_list(write_list(PAIRS), LIGHT) == PAIRS


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Who drew it? ottoline varga", [QAPair("Who drew it?", "Ottoline Varga")]),
        ("Who drew it? Nobody Known", []),  # not in the text
        ("Who drew it? Var", []),  # a part of a word
        ("Is Ottoline Varga the engineer? Ottoline Varga", []),  # the question holds it
        ("Who drew it?", []),
        ("Who drew it?\nWho is Ottoline Varga? 1867", [QAPair("Who is Ottoline Varga?", "1867")]),
        ("no question", []),
        ("", []),
    ],
)
def test_lines_that_are_no_pair_on_the_text_are_left_out(line, kept):
    assert read_list(line, LIGHT) == kept


def test_the_writers_questions_come_first_and_rules_fill_up(tiny_base, writer, monkeypatch):
    calls = []

    def write(base, prompts, adapter, options, prefixes):
        assert adapter is writer and all("Passage 1: Brannock Light" in p for p in prompts)
        calls.extend((row.seed, row.temperature) for row in options)
        return [write_list(PAIRS) + "\nWho knows? Nobody Known"] * len(prompts)

    monkeypatch.setattr(question_lists, "generate", write)
    (made,) = ListAugmenter(tiny_base, writer, 0, 12, False).augment([LIGHT])
    assert made.qa_pairs[:2] == tuple(PAIRS)
    assert set(made.qa_pairs[2:]) <= {*choose_pairs(LIGHT, 12)} and len(made.qa_pairs) > 6
    # Two passages, for the context of the tiny model; their first lists are greedy.
    assert calls == [(0, 0.0)] * 2 + [(1, question_lists.TEMPERATURE)] * 2


def test_a_document_has_the_same_lists_whoever_is_beside_it(tiny_base, writer, monkeypatch):
    def write(base, prompts, adapter, options, prefixes):
        houses = [re.search(r"house (\d+)", prompt)[1] for prompt in prompts]
        rows = zip(houses, options, strict=True)  # what is said is of one document and one seed
        return [f"Who has house {n}, says {row.seed}? Person {n}" for n, row in rows]

    monkeypatch.setattr(question_lists, "generate", write)
    augmenter = ListAugmenter(tiny_base, writer, 0, 12, False)
    documents = [Document(f"Person {n} has house {n}. " * n, "Tarn") for n in (9, 1, 15, 4)]
    together = augmenter.augment(documents)
    assert together == [augmenter.augment([document])[0] for document in documents]
    for number, made in zip((9, 1, 15, 4), together, strict=True):
        written = [pair for pair in made.qa_pairs if "says" in pair.question]
        assert len(written) > 1 and {pair.answer for pair in written} == {f"Person {number}"}
    assert augmenter.augment([]) == []
    (none,) = ListAugmenter(tiny_base, writer, 0, 0, False).augment([LIGHT])
    assert none.qa_pairs == () and not none.error


def test_a_reader_drops_the_pairs_that_it_answers_otherwise(tiny_base, writer, monkeypatch):
    reader = replace(random_adapter(writer.spec, tiny_base, 5), metadata={"prompt": SENTENCE.id})
    asked: list[str] = []

    def read(base, prompts, adapter, options, prefixes):
        assert adapter is reader and all(prompt.endswith(SENTENCE.lead) for prompt in prompts)
        with attached(base, reader):  # the passage is read once, by the reader
            known = kept_prefix(base, None, LIGHT, SENTENCE, options.max_new_tokens, lambda w: w())
        for prefix in prefixes:
            torch.testing.assert_close(prefix.states, known.states)
        asked.extend(prompts)
        return [" Ottoline Varga.", " 14 metres."][: len(prompts)]

    monkeypatch.setattr(question_lists, "generate", lambda b, prompts, *_: [write_list(PAIRS)])
    monkeypatch.setattr(question_lists, "PER_LIST", 12)
    monkeypatch.setattr(reading_check, "generate", read)
    monkeypatch.setattr(question_lists, "chunk_document", lambda document, *_: [document])
    (made,) = ListAugmenter(tiny_base, writer, 0, 12, False, reader=reader).augment([LIGHT])
    assert len(asked) == 2 and PAIRS[0] in made.qa_pairs and PAIRS[1] not in made.qa_pairs


def test_fingerprint_covers_the_writer_and_the_counts(tiny_base, writer):
    other = random_adapter(writer.spec, tiny_base, seed=7)
    made = [
        ListAugmenter(tiny_base, one, 0, count, facts).fingerprint
        for one, count, facts in ((writer, 8, False), (other, 8, False), (writer, 9, False),
                                  (writer, 8, True))
    ]  # fmt: skip
    read = [ListAugmenter(tiny_base, writer, 0, 8, False, reader=r) for r in (writer, other)]
    assert len({*made, *(one.fingerprint for one in read)}) == 6
    assert made[0] == ListAugmenter(tiny_base, writer, 0, 8, False, batch_size=3).fingerprint


def test_a_long_document_is_asked_about_passage_by_passage(tiny_base, writer, monkeypatch):
    def write(base, prompts, adapter, options, prefixes):
        names = [prompt.partition("Person ")[2].partition(" ")[0] for prompt in prompts]
        return [f"Who is {n[6:]}? {n}\nWhere does {n} live? Tarn" for n in names]

    monkeypatch.setattr(question_lists, "generate", write)
    text = " ".join(f"Person number{i} lives in a house of Tarn, as do others." for i in range(40))
    (made,) = ListAugmenter(tiny_base, writer, 0, 4, False).augment([Document(text, "Tarn")])
    assert len({pair.answer for pair in made.qa_pairs}) == 4  # of four passages
