"""Attach and generate: equal to dense weights, PEFT and transformers; nothing stays behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
from conftest import random_adapter, tiny_model
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prag_core.adapter import AdapterSpec
from prag_core.export import to_peft
from prag_core.generate import (
    GenerationOptions,
    _Row,
    attached,
    end_tokens,
    generate,
    stream,
)

IDS = torch.randint(5, 250, (3, 9), generator=torch.Generator().manual_seed(0))
GREEDY = GenerationOptions(max_new_tokens=12, stop=())
PROMPTS = ["Where is Tarn?", "Who?", "Why does the mill of Oss stand still in May?", "ü 東京 😀"]


def logits(base, ids=IDS, adapters=None) -> torch.Tensor:
    with torch.no_grad(), attached(base, adapters) as model:
        return model(input_ids=ids).logits


def hooks(base) -> int:
    return sum(len(module._forward_hooks) for module in base.model.modules())


@pytest.fixture
def adapters(tiny_base, tiny_spec):
    """Rank 2, none, rank 5, and down_proj of layer 1 only."""
    narrow = AdapterSpec(tiny_base.fingerprint, 3, 6, ("down_proj",), (1,))
    return [
        random_adapter(tiny_spec, tiny_base, seed=1),
        None,
        random_adapter(replace(tiny_spec, rank=5, alpha=10), tiny_base, seed=2),
        random_adapter(narrow, tiny_base, seed=3),
    ]


def test_attached_equals_adding_the_product_to_the_weights(tiny_base, adapters):
    for adapter in filter(None, adapters):
        dense = copy.deepcopy(tiny_base.model)
        for path, (a, b) in adapter.tensors.items():
            dense.get_submodule(path).weight.add_(adapter.spec.scale * b @ a)
        expected = dense(input_ids=IDS).logits
        torch.testing.assert_close(logits(tiny_base, IDS, adapter), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(expected, logits(tiny_base), atol=1e-2)


def test_attached_equals_peft(tiny_base, tiny_spec, tmp_path):
    adapter = random_adapter(tiny_spec, tiny_base)
    to_peft(adapter, tmp_path, "tiny")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), tmp_path)
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(logits(tiny_base, IDS, adapter), expected, rtol=0, atol=1e-5)


def test_one_adapter_a_row_equals_each_alone(tiny_base, adapters):
    for rows in ([0, 1, 2], [3, 2, 1], [1, 1, 3]):
        chosen = [adapters[i] for i in rows]
        together = logits(tiny_base, IDS, chosen)
        for row, adapter in enumerate(chosen):
            alone = logits(tiny_base, IDS[row : row + 1], adapter)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_one_adapter_serves_all_rows(tiny_base, adapters):
    shared = logits(tiny_base, IDS, adapters[0])
    torch.testing.assert_close(shared, logits(tiny_base, IDS, [adapters[0]] * 3))


def test_no_adapter_leaves_the_logits(tiny_base):
    for none in (None, [], [None, None, None]):
        assert torch.equal(logits(tiny_base, IDS, none), logits(tiny_base))


def test_bfloat16_adapter_is_scaled_in_float32(tiny_base, tiny_spec):
    adapter = random_adapter(replace(tiny_spec, dtype="bfloat16", rank=3, alpha=7), tiny_base)
    exact = replace(adapter.to(dtype=torch.float32))
    assert torch.equal(logits(tiny_base, IDS, adapter), logits(tiny_base, IDS, exact))


def test_restored_bit_equal_also_after_exceptions(tiny_base, adapters):
    before = logits(tiny_base)
    assert not torch.equal(logits(tiny_base, IDS, adapters[0]), before)
    with pytest.raises(KeyboardInterrupt), attached(tiny_base, adapters[0]):
        raise KeyboardInterrupt
    assert torch.equal(logits(tiny_base), before)
    with pytest.raises(ValueError, match="got a batch of 3 rows, expected 4: one adapter a row"):
        logits(tiny_base, IDS, adapters)
    assert torch.equal(logits(tiny_base), before)
    assert hooks(tiny_base) == 0


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


def test_adapter_of_another_base_is_refused(tiny_base, tiny_spec):
    foreign = random_adapter(replace(tiny_spec, base_model="other"), tiny_base)
    with pytest.raises(ValueError, match="got an adapter of base model other, expected one of"):
        logits(tiny_base, IDS, [None, foreign, None])


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
    assert len(set(together)) == 4


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "got max_new_tokens 0 and batch_size 32"),
        ({"batch_size": 0}, "batch_size 0, expected 1 or more of both"),
        ({"temperature": -1.0}, "got temperature -1.0"),
        ({"top_p": 0.0}, "top_p 0.0, expected temperature >= 0 and 0 < top_p <= 1"),
        ({"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_options_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**change)


def test_prompt_too_long_empty_or_without_adapter(tiny_base, adapters):
    with pytest.raises(ValueError, match=r"got a prompt of 501 tokens, expected at most 500 \(con"):
        generate(tiny_base, ["a" * 501], None, GREEDY)
    assert generate(tiny_base, ["a" * 500], None, GREEDY)
    with pytest.raises(ValueError, match="got an empty prompt"):
        generate(tiny_base, ["a", ""], None, GREEDY)
    with pytest.raises(ValueError, match="got 4 adapters, expected 2: one a prompt"):
        generate(tiny_base, ["a", "b"], adapters, GREEDY)
    assert generate(tiny_base, [], None, GREEDY) == []


# Below: rows fed with chosen tokens, as a model would choose them.


def pushed(base, text: str, stop: tuple[str, ...], end: bool = True) -> list[str]:
    """Pieces of a row that gets the text byte by byte (one token each) and the end token."""
    row = _Row(base, stop)
    pieces = [row.push(token) for token in base.tokenizer(text).input_ids]
    return [*pieces, row.push(base.tokenizer.eos_token_id) if end else row.flush()]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("Tarn\nOss", ("\n",), "Tarn"),
        ("\n\nTarn\nOss", ("\n",), "\n\nTarn"),  # line breaks before the answer end nothing
        ("Tarn. Question: Who?", ("Question:",), "Tarn. "),
        ("Question: Who?", ("Question:",), ""),
        ("\nQuestion: Who?", ("\nQuestion:", "\n"), ""),
        (" ###Tarn", (" ###",), ""),
        ("Quest Question", ("Question:",), "Quest Question"),  # held back, then sent
        ("aab aabaac", ("aac",), "aab aab"),
        ("one two three", ("three", "two"), "one "),
        ("Tarn", ("",), "Tarn"),
    ],
)
def test_stop_strings(tiny_base, text, stop, expected):
    assert "".join(pushed(tiny_base, text, stop)) == expected
    assert "".join(pushed(tiny_base, text, stop, end=False)) == expected


def test_a_stop_string_is_held_back_until_it_is_decided(tiny_base):
    pieces = pushed(tiny_base, "Tarn Quest", ("Question:",))
    assert pieces == [*"Tarn ", "", "", "", "", "", "Quest"]


def test_nothing_follows_the_end(tiny_base):
    row = _Row(tiny_base, ("\n",))
    pieces = [row.push(token) for token in tiny_base.tokenizer("a\nb<e>c").input_ids]
    assert pieces == ["a", "", "", "", ""]
    assert row.flush() == ""


def test_no_multi_byte_character_is_cut(tiny_base):
    pieces = pushed(tiny_base, "é東😀", ())
    assert [piece for piece in pieces if piece] == ["é", "東", "😀"]


def test_no_multi_byte_character_is_cut_by_byte_fallback():
    """SentencePiece tokenizers decode each byte of an unfinished character to one U+FFFD."""
    vocabulary = {"<unk>": 0, "<e>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    raw = RawTokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<e>")
    base = SimpleNamespace(model=tiny_model().model, tokenizer=tokenizer)
    row = _Row(base, ())
    pieces = [row.push(byte + 2) for byte in "é東😀".encode()]
    assert [piece for piece in pieces if piece] == ["é", "東", "😀"]


def test_every_end_token_of_tokenizer_and_model_ends_a_row():
    base = tiny_model()
    letter = base.tokenizer("Z").input_ids[0]
    for configured, expected in [(None, {2}), (2, {2}), (7, {2, 7}), ([letter, 9], {2, 9, letter})]:
        base.model.generation_config.eos_token_id = configured
        assert end_tokens(base) == expected | {1}  # 1 begins a text
    assert "".join(pushed(base, "TarnZOss", ())) == "Tarn"


def test_end_token_ends_a_row_but_not_the_others():
    base = tiny_model()
    whole = generate(base, PROMPTS, None, GREEDY)
    token = base.tokenizer(whole[0]).input_ids[2]
    base.model.generation_config.eos_token_id = [token]
    cut = generate(base, PROMPTS, None, GREEDY)
    assert len(cut[0]) < len(whole[0])
    assert all(text.startswith(short) for text, short in zip(whole, cut, strict=True))
