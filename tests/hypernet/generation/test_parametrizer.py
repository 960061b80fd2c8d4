"""Documents to adapters: batches, chunks, rank budget, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import save_checkpoint
from hypernet.network.encoder import Encoder
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import from_peft, to_peft
from prag_core.model.attach import attached
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network, parametrizer
from tests.fixtures.stores import assert_same


def close(first: Adapter, second: Adapter, tolerance: float = 1e-4) -> None:
    """Compare the updates B A of two adapters."""
    for path in first.spec.paths():
        updates = [b.float() @ a.float() for a, b in (first.tensors[path], second.tensors[path])]
        torch.testing.assert_close(*updates, atol=tolerance, rtol=1e-2)


def test_batch_size_and_order_change_nothing(tiny_base, tmp_path):
    alone = parametrizer(tiny_base, tmp_path, batch_size=1).parametrize(DOCUMENTS)
    together = parametrizer(tiny_base, tmp_path, batch_size=4).parametrize(DOCUMENTS[::-1])
    for one, other, document in zip(alone, together[::-1], DOCUMENTS, strict=True):
        assert one.metadata["document_id"] == document.id
        close(one, other)


def test_adapter_survives_bytes_and_acts(tiny_base, tmp_path):
    adapter = parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:1])[0]
    copy = Adapter.from_bytes(adapter.to_bytes())
    assert_same(copy, adapter)
    assert_same(from_peft(to_peft(adapter, tmp_path / "lora", "tiny"), tiny_base), adapter)
    assert set(copy.memory.tensors()) == {"gram", "whitening", "ridge", "sentences"}
    assert copy.shared_rows == 3
    ids = torch.tensor([[5, 6, 7]])
    plain = tiny_base.model(input_ids=ids).logits
    with attached(tiny_base, copy):
        assert not torch.allclose(tiny_base.model(input_ids=ids).logits, plain, atol=1e-4)


def test_every_row_knows_its_sentence(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, max_tokens=40, overlap=4)
    sentences = ["Dr. A. Roe likes tea.", " He is 3."]
    titled, plain, long = made.parametrize(
        [Document("".join(sentences), "Roe"), Document("One\ntwo"), Document("Long. " * 20)]
    )
    of_bytes = [len(x) for x in sentences]  # the tiny tokenizer has a token a byte
    expected = [-1] * len("Roe: ") + [0] * of_bytes[0] + [1] * of_bytes[1]
    assert titled.memory.sentences.tolist() == expected
    assert plain.memory.sentences.tolist() == [0] * 4 + [1] * 3
    assert long.memory is None  # multiplied out


def test_the_rows_of_several_chunks_know_their_sentences(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, max_tokens=16, overlap=4)
    (adapter,) = made.parametrize([Document("Tea yes. He is 3.", "R")])
    title, room, overlap = [-1] * len("R: "), 11, 4  # 16 less the title, start and end
    text = [0] * len("Tea yes.") + [1] * len(" He is 3.")
    expected = [*title, *text[:room], *title, *text[room - overlap :]]
    assert adapter.memory.gram.shape[1] == len(expected)
    assert adapter.memory.sentences.tolist() == expected


def test_a_long_titles_rest_is_no_row(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, max_tokens=40, overlap=4)
    (adapter,) = made.parametrize([Document("Aa. Bb.", "t" * 60)])
    assert adapter.memory.sentences.tolist() == [-1] * 20 + [0] * 3 + [1] * 4


def test_chunked_document_equals_its_parts_merged(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, max_tokens=24, overlap=4)
    document = Document("abcdefghij" * 6, "t")
    chunks = made._chunks(document)
    assert len(chunks) > 2 and max(map(len, chunks)) <= 24
    parts = [made._generate([chunk], [document])[0] for chunk in chunks]
    close(made.parametrize([document])[0], merge(parts))


def test_every_token_of_a_long_document_is_in_a_chunk(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, max_tokens=20, overlap=0)
    document = Document("".join(chr(97 + i % 26) for i in range(70)))
    body = [token for chunk in made._chunks(document) for token in chunk[1:-1]]
    assert body == tiny_base.tokenizer(document.text, add_special_tokens=False).input_ids


def test_document_of_one_token(tiny_base, tmp_path):
    adapter = parametrizer(tiny_base, tmp_path).parametrize([Document("x")])[0]
    assert adapter.rank == 1 + 3  # its token and the shared rows


def test_rank_budget(tiny_base, tmp_path):
    full, cut = (
        parametrizer(tiny_base, tmp_path, rank=rank).parametrize(DOCUMENTS[:1])[0]
        for rank in (None, 8)
    )
    assert full.rank > 8 == cut.spec.rank and cut.spec.scale == 1
    assert sum(len(a) for a, _ in cut.tensors.values()) == 8 * len(cut.tensors)
    assert cut.nbytes < full.nbytes


@pytest.mark.parametrize("head", ["perceiver", "last_token_mlp"])
def test_baseline_heads_make_adapters_that_are_summed(tiny_base, tmp_path, head):
    config = replace(CONFIG, head=head)
    save_checkpoint(tmp_path, network(tiny_base, config), config, tiny_base)
    first, second = HypernetParametrizer.from_pretrained(tmp_path, tiny_base).parametrize(
        DOCUMENTS[:2]
    )
    shared = {"perceiver": 4, "last_token_mlp": 0}[head]  # Doc-to-LoRA's own, beside 4 rows
    assert first.rank == 4 + shared and first.memory is None and first.shared_rows == shared
    merged = merge([first, second], method="concatenate")
    for path in merged.spec.paths():
        (a, b), (c, d), (e, f) = (x.tensors[path] for x in (merged, first, second))
        torch.testing.assert_close(b @ a, d @ c + f @ e, atol=1e-2, rtol=1e-2)
        assert not torch.allclose(d @ c, f @ e)
    assert merge([first, second]).rank == 8 + shared  # shared rows count once


def test_fingerprint_follows_the_settings(tiny_base, tmp_path):
    first = parametrizer(tiny_base, tmp_path)
    assert first.fingerprint == parametrizer(tiny_base, tmp_path).fingerprint
    assert first.fingerprint != parametrizer(tiny_base, tmp_path, rank=8).fingerprint


@pytest.mark.parametrize("name", ["keys", "hidden"])
def test_activations_that_are_not_finite_are_refused(tiny_base, tmp_path, monkeypatch, name):
    made, encode = parametrizer(tiny_base, tmp_path), Encoder.__call__

    def broken(*arguments):
        encoding = encode(*arguments)
        getattr(encoding, name)[0, -1, 1, 0] = float("nan")
        return encoding

    monkeypatch.setattr(Encoder, "__call__", broken)
    with pytest.raises(ValueError, match=r"not finite for \['Ana'"):
        made.parametrize(DOCUMENTS[:2])


def test_bad_input(tiny_base, tmp_path):
    with pytest.raises(ValueError, match="got an empty document"):
        parametrizer(tiny_base, tmp_path).parametrize([Document("  ", "t")])
    with pytest.raises(ValueError, match="got rank 1, expected 2 or more"):
        parametrizer(tiny_base, tmp_path, rank=1)
    with pytest.raises(ValueError, match="expected overlap < max_tokens"):
        parametrizer(tiny_base, tmp_path, overlap=64)
