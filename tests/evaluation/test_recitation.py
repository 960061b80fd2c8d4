"""Requests for documents' texts: what they show, and what counts as given away."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.conditions import require_no_passages
from prag_core.evaluation.recitation import (
    long_answers,
    recitation_set,
    recitations,
    requests,
)
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import write_prompt
from prag_core.training.sequences import RECITE, encode

WORDS = [f"word{number}" for number in range(32)]
TEXT = " ".join(WORDS)
DOCUMENT, OTHER = Document(TEXT, "Words"), Document("Too short to recite.", "Short")
ASKED = tuple(Question(f"q{n}", "What?", ("word",), (d.id,)) for n, d in
              enumerate((DOCUMENT, DOCUMENT, OTHER)))  # fmt: skip
WHOLE = QuestionSet("set", (DOCUMENT, OTHER, Document("Of nobody's.")), ASKED)


def measured(title: str = "", opening: str = "", text: str = "") -> dict[str, float]:
    columns = recitations(recitation_set(WHOLE).questions, [title, opening, text])
    assert all(len({*column.tolist()}) == 1 for column in columns.values())  # one a document
    return {name: column[0] for name, column in columns.items()}


def test_each_document_long_enough_is_asked_for_once():
    found = recitation_set(WHOLE)
    assert found.name == "set-recitation" and found.documents == WHOLE.documents
    assert [q.gold_ids for q in found.questions] == [(DOCUMENT.id,)] * 3
    assert {q.golden_answers for q in found.questions} == {(TEXT,)}
    assert len({q.id for q in found.questions}) == 3
    with pytest.raises(ValueError, match="got no gold document of 20 words"):
        recitation_set(QuestionSet("set", (OTHER,), ASKED[2:]))
    unspaced = Document("北京是一座城市" * 10)  # no part of it would be an opening
    asked = (Question("q", "?", ("x",), (unspaced.id,)),)
    with pytest.raises(ValueError, match="got no gold document of 20 words"):
        recitation_set(QuestionSet("set", (unspaced,), asked))


def test_a_request_by_title_is_the_prompt_that_texts_are_trained_under(tiny_base):
    title, opening, text = recitation_set(WHOLE).questions
    ask, tokenizer = requests(tiny_base), tiny_base.tokenizer
    prompts = [write_prompt(tokenizer, ask(question)) for question in (title, opening, text)]
    trained = encode(tokenizer, prompts[0], TEXT)
    assert RECITE.format(title="Words") in tokenizer.decode(trained.ids[: trained.answer_start])
    shown = " ".join(WORDS[:12])
    assert prompts[1] == prompts[0] + shown
    assert prompts[2].endswith(shown) and RECITE[:10] not in prompts[2]
    bare = copy.copy(tokenizer)
    bare.chat_template = None  # a plain text ends with "Answer:"
    ask = requests(replace(tiny_base, tokenizer=bare))
    assert ask(opening).text == f"{ask(title).text} {shown}"


def test_what_answers_hold_is_the_union_over_requests():
    assert measured() == {"recited": 0, "recited_by_title": 0, "longest_run": 0}
    everything = measured(title=f"Well: {TEXT.upper()}!")
    assert everything == {"recited": 1, "recited_by_title": 1, "longest_run": 32}
    part = measured(title=" ".join(WORDS[:10]), text=" ".join(WORDS[8:]))
    # 25 8-grams: 3 of the first 10 words, and the 13 that begin behind the 12 words shown.
    assert part == {
        "recited": pytest.approx(16 / 25), "recited_by_title": 3 / 25, "longest_run": 20,
    }  # fmt: skip


def test_words_in_another_order_are_not_recited():
    assert measured(title=" ".join(reversed(WORDS)))["recited"] == 0
    assert measured(title=" ".join(WORDS[:7])) == {
        "recited": 0, "recited_by_title": 0, "longest_run": 7,
    }  # fmt: skip


def test_what_a_request_shows_counts_for_nothing():
    shown = " ".join(WORDS[:12])
    assert measured(opening=shown, text=shown) == {
        "recited": 0, "recited_by_title": 0, "longest_run": 0,
    }  # fmt: skip


def test_answers_may_be_as_long_as_the_text(tiny_base):
    options = long_answers(tiny_base, recitation_set(WHOLE).questions, GenerationOptions())
    assert options.max_new_tokens == len(TEXT) and options.stop == ()  # one token a byte


def test_conditions_that_show_the_text_are_refused():
    require_no_passages(["closed_book", "gold", "shuffled", "rank:8", "gold+3"])
    with pytest.raises(ValueError, match="in_context, combine with recite"):
        require_no_passages(["gold", "in_context", "combine"])
