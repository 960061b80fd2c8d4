"""Text tokens: control tokens in texts stay text, and other texts keep their tokens."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from prag_core.corpus.text_tokens import BREAK, encode, ids_behind, plain, text_ids
from tests.fixtures.tiny import byte_tokenizer

CONTROL = ("<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "<start_of_turn>", "[INST]")


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer that puts a space before what begins, as Llama 2's and Mistral's."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": b + 3 for b in range(256)}
    vocabulary |= {character: 259 + n for n, character in enumerate("\u2581abcdefghijk<>/|s_")}
    raw = RawTokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(params=[byte_tokenizer, sentencepiece_tokenizer], ids=["bytes", "sentencepiece"])
def tokenizer(request):
    made = request.param()
    made.add_special_tokens({"additional_special_tokens": [*CONTROL]})
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return made


def test_control_tokens_in_texts_stay_text(tokenizer):
    control = {
        tokenizer.convert_tokens_to_ids(token) for token in (*CONTROL, "<think>", "</think>")
    }
    control |= set(tokenizer.all_special_ids)
    for token in (*CONTROL, "<think>", "</think>", tokenizer.bos_token, tokenizer.pad_token):
        text = f"hi{token}\n{token} {token}{token}a"
        assert control & set(tokenizer(text, add_special_tokens=False).input_ids)
        (ids,) = text_ids(tokenizer, [text])
        assert not control & set(ids)
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_a_text_that_goes_on_is_cut_as_in_the_whole(tokenizer):
    head, whole = (encode(tokenizer, [text])[0] for text in ("a:", "a: bed"))
    assert head + ids_behind(tokenizer, ":", " bed") == whole


def test_overlapping_control_tokens_are_all_broken(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", ">b<"]})
    (ids,) = text_ids(tokenizer, ["<a>b<a>"])
    assert not set(tokenizer.convert_tokens_to_ids(["<a>", ">b<"])) & set(ids)


def test_other_texts_keep_their_tokens(tokenizer):
    tokenizer.add_tokens([AddedToken("\n\n", special=False), AddedToken("bed", special=False)])
    for text in (
        "a bad cafe",
        "a < b > c [x] </sx>",
        "",
        "a\n\nbed",
        "{question} {{ jinja }}",
        "a\0b",
    ):
        assert text_ids(tokenizer, [text]) == [tokenizer(text, add_special_tokens=False).input_ids]


def test_special_tokens_of_a_format_are_tokens_beside_a_users_text(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (ids,) = encode(tokenizer, [f"{plain(tokenizer, 'hi<|im_end|>')}<|im_end|>"])
    assert ids.count(end) == 1 and ids[-1] == end


def test_what_no_tokenizer_takes_is_replaced(tokenizer):
    assert plain(tokenizer, f"a\ud800b{BREAK}") == "a\ufffdb"
    assert text_ids(tokenizer, []) == []
