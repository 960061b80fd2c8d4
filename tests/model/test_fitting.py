"""Fitting: prompts that are too long lose turns and passages, never the question."""

from __future__ import annotations

import pytest

from prag_core.corpus.documents import Document
from prag_core.model.fitting import _shortened, fit_prompt
from prag_core.model.prompts import prompt_ids, write_prompt

QUESTION = "Where is the mill of Tarn?"
FIRST, SECOND = (
    Document("Tarn has a mill. " * 5, "Tarn"),
    Document("Oss has a quarry. " * 40, "Oss"),
)


def fitted(base, question, passages=(), tokens=32):
    prompt = fit_prompt(base, question, passages, max_new_tokens=tokens)
    fits = len(prompt_ids(base.tokenizer, prompt.text)) <= base.context_length - tokens
    assert fits == (not prompt.error)
    return prompt


def test_what_fits_is_as_it_was(tiny_base):
    prompt = fitted(tiny_base, QUESTION, [FIRST])
    assert prompt.text == write_prompt(tiny_base.tokenizer, QUESTION, [FIRST])
    assert not prompt.notes


def test_the_last_passages_are_cut_first(tiny_base):
    prompt = fitted(tiny_base, QUESTION, [FIRST, SECOND, SECOND])
    assert FIRST.text in prompt.text and "Passage 2: Oss: Oss has" in prompt.text
    assert "Passage 3" not in prompt.text and QUESTION in prompt.text
    (note,) = prompt.notes
    assert note.startswith("1 of 3 passages are whole in the prompt, 1 in part")


@pytest.mark.parametrize(
    ("text", "excess", "part"),
    [
        ("Oss has a quarry.", 3, "Oss has a"),
        ("Oss\thas\ta\tquarry.", 3, "Oss\thas\ta"),
        ("東京塔（Tokyo Tower）位于日本的首都。", 10, "東京塔（Tokyo Tower）位于日"),
        ("Oss " + "塔" * 400, 602, "Oss " + "塔" * 198),
    ],
)
def test_a_passage_is_cut_at_a_space_near_its_end_or_between_characters(
    tiny_base, text, excess, part
):
    assert [passage.text for passage in _shortened(tiny_base, Document(text), excess)] == [part]


def test_the_oldest_turns_go_first_and_the_systems_stays(tiny_base):
    turns = [{"role": "system", "content": "Be brief."}]
    for number in range(6):
        turns.append({"role": "user", "content": f"Question {number} " + "a" * 60})
        turns.append({"role": "assistant", "content": f"Reply {number}"})
    turns.append({"role": "user", "content": QUESTION})
    prompt = fitted(tiny_base, turns)
    assert "Be brief." in prompt.text and "Reply 5" in prompt.text and QUESTION in prompt.text
    assert "Question 0" not in prompt.text and "earlier turns were left out" in prompt.notes[0]
    with_passages = fitted(tiny_base, turns, [SECOND])
    assert "Oss has a quarry." in with_passages.text and len(with_passages.notes) == 2


def test_a_question_that_is_too_long_is_named(tiny_base):
    prompt = fitted(tiny_base, "Where? " * 100, [FIRST])
    assert "tokens, expected at most 480 (context 512 less max_new_tokens 32)" in prompt.error
