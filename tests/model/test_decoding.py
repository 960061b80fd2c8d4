"""Rows that join and leave a batch while others are decoded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.adapters.adapter import AdapterSpec
from prag_core.model.attach import AdapterStack
from prag_core.model.decoding import DecodingBatch
from prag_core.model.decoding_rows import Row
from prag_core.model.generate import generate
from tests.fixtures.decoding import GREEDY, PROMPTS
from tests.fixtures.tiny import random_adapter


def alone(base, prompt, adapter, options) -> str:
    return generate(base, [prompt], [adapter], options)[0]


def test_rows_join_and_leave_between_steps(family_base):
    """Rows of all lengths, each with its own adapter or none, whatever the others do."""
    spec = AdapterSpec(family_base.fingerprint, 2, 8, layers=(0, 1))
    adapters = [
        random_adapter(spec, family_base, seed=1),
        None,
        random_adapter(replace(spec, rank=7, alpha=14), family_base, seed=2),
        random_adapter(replace(spec, rank=1, modules=("up_proj",)), family_base, seed=3),
    ] * 2
    options = [replace(GREEDY, max_new_tokens=n) for n in (3, 12, 5, 1, 9, 30, 2, 7)]
    rows = [
        Row(family_base, prompt, adapter, chosen)
        for prompt, adapter, chosen in zip(PROMPTS + PROMPTS[::-1], adapters, options, strict=True)
    ]
    prompts = PROMPTS + PROMPTS[::-1]
    batch, texts, waiting, given_up = DecodingBatch(family_base), {}, list(rows), rows[5]
    while waiting or batch.rows:
        pieces = batch.step() if batch.rows else []
        if waiting:
            pieces += batch.join([waiting.pop(0) for _ in range(min(2, len(waiting)))])
        for row, piece in pieces:
            texts[id(row)] = texts.get(id(row), "") + piece
        if given_up.tokens > 8:
            batch.drop([given_up])
    for row, prompt, adapter, chosen in zip(rows, prompts, adapters, options, strict=True):
        whole = alone(family_base, prompt, adapter, chosen)
        if row is given_up:
            assert whole.startswith(texts[id(row)].strip())
            assert row.finish == ""
        else:
            assert texts[id(row)].strip() == whole
            assert row.finish in ("length", "stop")


def test_nothing_stays_of_rows_that_left(tiny_base, adapters):
    """A row without adapter, or with other modules, after one that had them."""
    own = [adapters[0], None, adapters[3], adapters[2], None, adapters[0]]
    for together in (1, 2):
        batch, waiting, texts = DecodingBatch(tiny_base), list(enumerate(own)), {}
        while waiting or batch.rows:
            pieces = batch.step() if batch.rows else []
            while waiting and len(batch.rows) < together:
                place, adapter = waiting.pop(0)
                options = replace(GREEDY, max_new_tokens=4 + 3 * (place % 3))
                row = Row(tiny_base, PROMPTS[place % 4], adapter, options)
                row.place = place
                pieces += batch.join([row])
            for row, piece in pieces:
                texts[row.place] = texts.get(row.place, "") + piece
        for place, adapter in enumerate(own):
            options = replace(GREEDY, max_new_tokens=4 + 3 * (place % 3))
            assert texts[place].strip() == alone(tiny_base, PROMPTS[place % 4], adapter, options)


def test_slots_hold_zeros_for_rows_to_come(tiny_base, adapters):
    stack = AdapterStack(tiny_base)
    stack.append([adapters[0]])
    stack.reorder([])
    stack.append([None])
    stack.append([adapters[2]])
    for a, b in stack.updates().values():
        assert not a[0].any() and not b[0].any()
        assert a[1].any() and b[1].any()


def test_a_row_that_cannot_join_leaves_the_others_alone(tiny_base, adapters, monkeypatch):
    foreign = replace(adapters[0], spec=replace(adapters[0].spec, base_model="other"))
    batch = DecodingBatch(tiny_base)
    row = Row(tiny_base, PROMPTS[2], adapters[2], GREEDY)
    text = batch.join([row])[0][1]
    with pytest.raises(ValueError, match="got an adapter of base model other"):
        batch.join([Row(tiny_base, "Who?", foreign, GREEDY)])
    with monkeypatch.context() as patch:
        patch.setattr(tiny_base.model.lm_head, "forward", None)
        with pytest.raises(TypeError):
            batch.join([Row(tiny_base, "Who?", adapters[0], GREEDY)])
    while batch.rows:
        text += batch.step()[0][1]
    assert text.strip() == alone(tiny_base, PROMPTS[2], adapters[2], GREEDY)


def test_samples_do_not_depend_on_the_other_rows(tiny_base):
    options = [replace(GREEDY, temperature=1.5, seed=seed) for seed in range(4)]
    batch = DecodingBatch(tiny_base)
    rows = [Row(tiny_base, p, None, o) for p, o in zip(PROMPTS, options, strict=True)]
    texts = {id(row): piece for row, piece in batch.join(rows)}
    while batch.rows:
        for row, piece in batch.step():
            texts[id(row)] += piece
    for row, prompt, chosen in zip(rows, PROMPTS, options, strict=True):
        assert texts[id(row)].strip() == alone(tiny_base, prompt, None, chosen)
