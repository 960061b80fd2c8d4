"""Rows fed with chosen tokens, as a model would choose them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prag_core.model.decoding_rows import RowText, end_tokens
from prag_core.model.options import GenerationOptions
from tests.fixtures.tiny import tiny_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0, .*expected 1 or more tokens"),
        ({"batch_size": 0}, "batch_size=0.*expected 1 or more tokens and rows"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0.*expected .*temperature >= 0 and 0 < top_p <= 1"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_options_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**change)


def pushed(base, text: str, stop: tuple[str, ...], end: bool = True) -> list[str]:
    """Pieces of a row that gets the text byte by byte (one token each) and the end token."""
    row = RowText(base, stop)
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


def test_a_stop_string_at_once_ends_before_the_first_word(tiny_base):
    for text, expected in (("\n\nTarn", ""), ("\nTarn\n\nOss", "\nTarn")):
        row = RowText(tiny_base, ("\n\n",), ("\n\n",))
        assert "".join(map(row.push, tiny_base.tokenizer(text).input_ids)) == expected


def test_a_stop_string_is_held_back_until_it_is_decided(tiny_base):
    pieces = pushed(tiny_base, "Tarn Quest", ("Question:",))
    assert pieces == [*"Tarn ", "", "", "", "", "", "Quest"]


def test_nothing_follows_the_end(tiny_base):
    row = RowText(tiny_base, ("\n",))
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
    row = RowText(base, ())
    pieces = [row.push(byte + 2) for byte in "é東😀".encode()]
    assert [piece for piece in pieces if piece] == ["é", "東", "😀"]


def test_every_end_token_of_tokenizer_and_model_ends_a_row():
    base = tiny_model()
    letter = base.tokenizer("Z").input_ids[0]
    for configured, expected in [(None, {2}), (2, {2}), (7, {2, 7}), ([letter, 9], {2, 9, letter})]:
        base.model.generation_config.eos_token_id = configured
        assert end_tokens(base) == expected | {1}  # 1 begins a text
    assert "".join(pushed(base, "TarnZOss", ())) == "Tarn"
