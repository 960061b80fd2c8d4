"""Rows that adapters share lie beside packs once, and come back with each of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.adapters.shards import open_shards, push
from prag_core.adapters.store import AdapterStore, DamagedError, reindex
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter

RANK, SHARED = 3, 2  # rows of each adapter, and those of them that are shared


@pytest.fixture
def made(tiny_base, tiny_spec):
    """Three adapters in int8 with the same last rows, as a store gives them back."""
    spec = replace(tiny_spec, rank=RANK, dtype="int8")
    whole = [replace(random_adapter(spec, tiny_base, seed=i), shared_rows=SHARED) for i in range(3)]
    shared = whole[0].part("shared")
    same = [adapter.part("own").with_shared(shared).rounded() for adapter in whole]
    notes = ({"document_id": f"doc{i}", "title": f"title {i}"} for i in range(3))
    return {
        f"doc{i}-x": replace(x, metadata=note)
        for i, (x, note) in enumerate(zip(same, notes, strict=True))
    }


@pytest.fixture
def filled(store, made):
    store.put_many(made)
    return store


def _files(store):
    return sorted(path.suffix for path in (store.path / "packs").iterdir())


def _assert_all(store, made):
    assert sorted(store) == sorted(made) and store.verify() == []
    for key, adapter in made.items():
        found = store.get(key)
        assert_same(found, adapter)
        assert found.shared_rows == SHARED and found.metadata == adapter.metadata


def test_parts_join_to_the_whole(made):
    for adapter in made.values():
        assert_same(adapter.part("own").with_shared(adapter.part("shared")), adapter)


def test_they_lie_beside_the_packs_once(filled, made):
    assert _files(filled) == [".safetensors", ".shared"]
    _assert_all(filled, made)
    own = sum(a[:1].numel() + b[:, :1].numel() + 8 for a, b in made["doc0-x"].tensors.values())
    assert {adapter.stored_bytes for adapter in made.values()} == {own}
    # What the row counts has safetensors' header too.
    assert all(own < row.bytes < own + 5000 for row in filled.rows())
    (shared,) = (filled.path / "packs").glob("*.shared")
    part = replace(made["doc1-x"].part("shared"), metadata={})
    assert_same(Adapter.from_bytes(shared.read_bytes()), part)
    # In a merge they count once, as those of adapters that were never stored.
    merged = merge([filled.get(key) for key in made])
    assert merged.rank == len(made) * (RANK - SHARED) + SHARED
    assert_same(merged, merge(list(made.values())))


def test_others_have_none_and_other_dtypes_too_are_packed_so(store, made, adapter):
    half = replace(made["doc0-x"].to(torch.bfloat16),
                   spec=replace(made["doc0-x"].spec, dtype="bfloat16"))  # fmt: skip
    store.put_many({"half": half, "plain": adapter}, pack=True)
    store.put_many(made)
    assert _files(store) == [".safetensors"] * 2 + [".shared"] * 2  # one in each dtype
    assert_same(store.get("half"), half)
    assert_same(store.get("plain"), adapter)
    store.put("folder", half)
    assert_same(store.get("folder"), half)
    assert store.get("folder").shared_rows == SHARED and store.verify() == []


def test_few_of_them_stay_in_every_adapter(store, tiny_base, tiny_spec):
    spec = replace(tiny_spec, rank=5, dtype="int8")  # one of five, where two of three lie apart
    few = replace(random_adapter(spec, tiny_base), shared_rows=1).rounded()
    store.put("few", few)
    assert _files(store) == [".safetensors"] and store.get("few").shared_rows == 1
    assert_same(store.get("few"), few)
    assert few.stored_bytes == sum(
        a.numel() + b.numel() + 8 * len(a) for a, b in few.tensors.values()
    )


def test_reindex_and_sweep_keep_what_rows_name(filled, made):
    rows = list(filled.rows())
    reindex(filled.path)
    assert list(filled.rows()) == rows
    filled.put("doc3-x", made["doc0-x"])  # a second small pack, which a sweep joins with the first
    filled.sweep(grace=0)
    filled.sweep(grace=0)
    assert _files(filled) == [".safetensors", ".shared"]
    _assert_all(filled, made | {"doc3-x": made["doc0-x"]})
    filled.delete_many(list(filled))
    filled.sweep(grace=0)
    assert _files(filled) == []


@pytest.mark.parametrize("gone", [True, False])
def test_damaged_ones_are_named_and_mended_by_the_next_put(filled, made, gone):
    (shared,) = (filled.path / "packs").glob("*.shared")
    content = bytearray(shared.read_bytes())
    content[-1] ^= 1
    shared.write_bytes(content)
    if gone:
        shared.unlink()
    problem = f"got {'no file' if gone else 'damaged bytes for .* in'} .*shared"
    with pytest.raises(DamagedError, match=problem):
        filled.get("doc1-x")
    assert len(filled.verify()) == len(made)
    filled.put("doc1-x", made["doc1-x"])
    _assert_all(filled, made)


def test_shards_have_their_own(filled, made, tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "shards"
    assert push(filled, place, lambda done: None) == len(made)
    shutil.rmtree(filled.path)
    with open_shards(place) as shards:
        _assert_all(shards, made)


def test_a_store_of_the_version_before_becomes_one_of_this_when_it_gets_a_pack(filled, made):
    header = filled.path / "store.json"
    present = json.loads(header.read_text())
    header.write_text(json.dumps(present | {"version": 2}))
    whole = replace(made["doc0-x"], spec=replace(made["doc0-x"].spec, dtype="float32"))
    with AdapterStore(filled.path, readonly=True) as reader:
        _assert_all(reader, made)
    assert json.loads(header.read_text())["version"] == 2
    with AdapterStore(filled.path) as writer:
        writer.put("whole", whole)  # a folder, as that version has it
        assert json.loads(header.read_text())["version"] == 2
        writer.put("doc0-x", made["doc0-x"])  # a pack
        assert_same(writer.get("whole"), whole)
    assert json.loads(header.read_text()) == present
