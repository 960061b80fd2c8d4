"""Generate: equal to transformers, batched or one by one; the model is left as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import AdapterSpec
from prag_core.model.generate import generate, stream
from prag_core.model.options import GenerationOptions
from tests.fixtures.decoding import GREEDY, PROMPTS, logits
from tests.fixtures.tiny import random_adapter, tiny_model


def test_one_string_to_stop_at_is_one():
    assert GenerationOptions(stop="END") == GenerationOptions(stop=("END",))


def test_restored_when_generation_raises(tiny_base, adapters, monkeypatch):
    before = logits(tiny_base)

    def fail(*_, **__):
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_base.model.lm_head, "forward", fail)
        with pytest.raises(MemoryError):
            generate(tiny_base, ["a"], adapters[0], GREEDY)
    assert torch.equal(logits(tiny_base), before)


def test_model_is_unchanged_between_the_pieces_of_a_stream(tiny_base, adapters):
    before = logits(tiny_base)
    pieces = stream(tiny_base, ["Who?"], adapters[0], GREEDY)
    next(pieces)
    assert torch.equal(logits(tiny_base), before)
    whole = generate(tiny_base, ["Who?"], adapters[0], GREEDY)
    other = stream(tiny_base, ["Who?"], adapters[2], GREEDY)  # two streams, one after the other's
    mixed = [next(other)[1]]
    rest = "".join(piece for _, piece in pieces)
    mixed += [piece for _, piece in other]
    assert whole[0].endswith(rest.strip())
    assert "".join(mixed).strip() == generate(tiny_base, ["Who?"], adapters[2], GREEDY)[0]


def test_batched_equals_one_by_one(family_base):
    spec = AdapterSpec(family_base.fingerprint, 2, 4, layers=(0, 1))
    rows = [random_adapter(spec, family_base, seed=i) for i in range(3)]
    rows = [rows[0], None, rows[1], rows[2]]
    together = generate(family_base, PROMPTS, rows, GREEDY)
    alone = [
        generate(family_base, [prompt], row, GREEDY)[0]
        for prompt, row in zip(PROMPTS, rows, strict=True)
    ]
    in_twos = generate(family_base, PROMPTS, rows, replace(GREEDY, batch_size=2))
    assert together == alone == in_twos
    assert len(set(together)) >= 3  # prompts and adapters differ; two rows may still say the same


def test_greedy_text_equals_transformers(family_base):
    tokenizer = family_base.tokenizer
    for prompt in PROMPTS:
        encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        made = family_base.model.generate(**encoded, max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(made[0, encoded.input_ids.shape[1] :], skip_special_tokens=True)
        assert generate(family_base, [prompt], None, GREEDY) == [text.strip()]


def test_streamed_pieces_join_to_the_whole_text(tiny_base, adapters):
    options = replace(GREEDY, max_new_tokens=24, stop=("a", "\n"))
    joined = [""] * 4
    for row, piece in stream(tiny_base, PROMPTS, adapters, options):
        assert piece
        joined[row] += piece
    assert [text.strip() for text in joined] == generate(tiny_base, PROMPTS, adapters, options)


def test_sampling_is_seeded(tiny_base):
    options = replace(GREEDY, temperature=1.0)
    first = generate(tiny_base, PROMPTS, None, options)
    assert first == generate(tiny_base, PROMPTS, None, options)
    assert first != generate(tiny_base, PROMPTS, None, replace(options, seed=1))
    assert first != generate(tiny_base, PROMPTS, None, GREEDY)


def test_a_narrow_nucleus_is_greedy(tiny_base):
    narrow = replace(GREEDY, temperature=1.0, top_p=1e-6)
    assert generate(tiny_base, PROMPTS, None, narrow) == generate(tiny_base, PROMPTS, None, GREEDY)


def test_prompt_too_long_empty_or_without_adapter(tiny_base, adapters):
    with pytest.raises(ValueError, match=r"got a prompt of 501 tokens, expected at most 500 \(con"):
        generate(tiny_base, ["a" * 501], None, GREEDY)
    assert generate(tiny_base, ["a" * 500], None, GREEDY)
    with pytest.raises(ValueError, match="got an empty prompt"):
        generate(tiny_base, ["a", ""], None, GREEDY)
    with pytest.raises(ValueError, match="got 4 adapters, expected 2: one a prompt"):
        generate(tiny_base, ["a", "b"], adapters, GREEDY)
    assert generate(tiny_base, [], None, GREEDY) == []


def test_end_token_ends_a_row_but_not_the_others():
    base = tiny_model()
    whole = generate(base, PROMPTS, None, GREEDY)
    token = base.tokenizer(whole[0]).input_ids[2]
    base.model.generation_config.eos_token_id = [token]
    cut = generate(base, PROMPTS, None, GREEDY)
    assert len(cut[0]) < len(whole[0])
    assert all(text.startswith(short) for text, short in zip(whole, cut, strict=True))
    others = [i for i, text in enumerate(whole) if token not in base.tokenizer(text).input_ids]
    assert others and all(cut[i] == whole[i] for i in others)
