"""AdapterStore: round trips, folders and packs, sweeping, reindexing, records, opening."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from prag_core.adapters import store_places
from prag_core.adapters.adapter import Adapter, AdapterSpec, adapter_key
from prag_core.adapters.ridge_memory import RidgeMemory
from prag_core.adapters.store import AdapterStore, UnknownKeyError, reindex
from prag_core.speed.store import measure_store
from tests.fixtures.stores import assert_same, disk, table
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_a_url_is_no_folder_of_a_store(tmp_path):
    with pytest.raises(ValueError, match=r"got s3://bucket/x, expected a folder of this machine"):
        AdapterStore("s3://bucket/x")
    with AdapterStore(f"file://{tmp_path}/s") as store:
        assert store.path == tmp_path / "s"


@pytest.mark.parametrize("pack", [True, False])
def test_round_trip_after_reopening(folder, tiny_base, tiny_spec, pack):
    adapters = {f"key{i}": random_adapter(tiny_spec, tiny_base, seed=i) for i in range(5)}
    with AdapterStore(folder) as store:
        store.put_many(adapters, pack)
        store.put("single", adapters["key0"])
    with AdapterStore(folder, readonly=True) as store:
        assert list(store) == [*sorted(adapters), "single"] and len(store) == 6
        assert list(store.keys(prefix="key")) == sorted(adapters)
        for key, found in store.items():
            assert_same(found, adapters.get(key, adapters["key0"]))
        assert store.has("key1") and "nothing" not in store and store.verify() == []


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_real_keys(folder, tiny_base, dtype, pack):
    spec = AdapterSpec(tiny_base.fingerprint, 2, 32, layers=(0, 1), dtype=dtype)
    adapter = random_adapter(spec, tiny_base)
    key = adapter_key("0" * 32, spec, "1" * 16)
    with AdapterStore(folder) as store:
        store.put_many({key: adapter}, pack)
        assert_same(store.get(key), adapter)


def test_a_folder_can_be_read_by_hand(folder, adapter):
    with AdapterStore(folder) as store:
        store.put("doc0-x", adapter)
        place = store.weights_path("doc0-x").parent
    names = {path.name for path in place.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "prag_adapter.json"}
    note = json.loads((place / "prag_adapter.json").read_text())
    assert (note["key"], note["document"], note["spec"]["rank"]) == ("doc0-x", "doc0", 2)
    assert place.parent.name == place.name[:2]
    assert {path.name for path in folder.iterdir()} == {
        "store.json", "index.sqlite", "index.sqlite-journal", "adapters", "tmp"
    }  # fmt: skip
    path = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    weights = load_file(place / "adapter_model.safetensors")
    assert weights[path].equal(adapter.tensors["model.layers.0.mlp.up_proj"][0])


def test_a_pack_opens_in_safetensors(folder, adapter):
    with AdapterStore(folder) as store:
        store.put_many({"a": adapter, "é": adapter}, pack=True)
    (pack,) = (folder / "packs").iterdir()
    values = load_file(pack)
    assert set(values) == {"a", "é"}
    assert_same(Adapter.from_bytes(bytes(values["é"].numpy())), adapter)


def test_large_batches_of_small_adapters_are_packed(folder, adapter):
    with AdapterStore(folder) as store:
        store.put_many({f"few{i}": adapter for i in range(63)})
        assert not (folder / "packs").exists()
        store.put_many({f"many{i}": adapter for i in range(1030)})
        assert len(list((folder / "packs").iterdir())) == 2  # of 1024 and 6
        big = random_adapter(replace(adapter.spec, layers=(0, 1)), _base(), rank=64)
        assert big.nbytes > 1 << 16
        store.put_many({f"big{i}": big for i in range(64)})
        assert store.weights_path("big0") and store.weights_path("many0") is None


def _base():
    from tests.fixtures.tiny import tiny_model

    return tiny_model()


def test_put_replaces_and_delete_removes(folder, tiny_base, tiny_spec):
    first, second = (random_adapter(tiny_spec, tiny_base, seed=i) for i in range(2))
    with AdapterStore(folder) as store:
        store.put_many({"a": first, "b": first})
        store.put("a", second)
        assert_same(store.get("a"), second)
        assert_same(store.get("b"), first)
        assert store.delete("a") and not store.delete("a")
        assert_same(store.get("b"), first)
        with pytest.raises(UnknownKeyError, match="got key 'a', expected one of the 1 in") as error:
            store.get("a")
        assert isinstance(error.value, KeyError)
        store.put_many({"c": first, "d": first})
        assert store.delete_many(["b", "c", "x"]) == 2 and list(store) == ["d"]


def test_sweep_removes_what_no_row_names_after_its_grace(folder, adapter, tiny_base, tiny_spec):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        old = store.weights_path("a")
        store.put("a", random_adapter(tiny_spec, tiny_base, seed=5))
        store.put_many({"b": adapter}, pack=True)
        store.delete("b")
        (folder / "tmp" / "killed").mkdir()
        assert old.exists() and store.sweep() == 0 and old.exists()
        size = store.stats()["file_bytes"]
        freed = store.sweep(grace=0)
        assert freed > 0 and store.stats()["file_bytes"] == size - freed
        assert not old.parent.exists() and not any((folder / "packs").iterdir())
        assert not any((folder / "tmp").iterdir()) and store.verify() == []
        store.put("b", adapter)  # the same content again
        assert_same(store.get("b"), adapter)


def test_replacing_forever_does_not_grow_a_swept_store(folder, adapter, tiny_base, tiny_spec):
    adapters = [random_adapter(tiny_spec, tiny_base, seed=i) for i in range(2)]
    sizes = set()
    with AdapterStore(folder) as store:
        for i in range(10):
            store.put("a", adapters[i % 2])
            store.sweep(grace=0)
            sizes.add(disk(folder))
    assert len(sizes) == 1


def test_sweep_packs_again_what_lies_in_half_empty_packs(folder, adapter):
    raw = len(adapter.to_bytes())
    with AdapterStore(folder) as store:
        for start in range(0, 360, 90):
            store.put_many({f"k{i:03}": adapter for i in range(start, start + 90)})
        store.delete_many(f"k{i:03}" for i in range(0, 360, 3))
        assert len(list((folder / "packs").iterdir())) == 4
        store.sweep(grace=0)
        assert len(list((folder / "packs").iterdir())) == 1
        assert store.stats()["count"] == len(store) == 240
        assert store.stats()["bytes"] == 240 * raw and store.verify() == []
        (pack,) = (folder / "packs").iterdir()
        assert pack.stat().st_size < 1.03 * 240 * raw
        assert_same(store.get("k001"), adapter)
        assert store.sweep(grace=0) == 0


def test_a_sweep_leaves_packs_that_are_full_by_their_bytes(folder, adapter, monkeypatch):
    monkeypatch.setattr(store_places, "PACK_BYTES", 4 * len(adapter.to_bytes()))
    with AdapterStore(folder) as store:
        store.put_many({f"k{i}": adapter for i in range(8)}, pack=True)
        packs = list((folder / "packs").iterdir())
        for pack in packs:
            os.utime(pack, (1, 1))
        assert store.sweep(grace=0) == 0 and len(packs) == 2
        assert [pack.stat().st_mtime for pack in packs] == [1, 1]  # not written again


def test_reindex_takes_the_newest_of_several_packs(folder, tiny_base, tiny_spec):
    first, second = (random_adapter(tiny_spec, tiny_base, seed=i) for i in range(2))
    with AdapterStore(folder) as store:
        store.put_many({"k": first}, pack=True)
        store.put_many({"k": second}, pack=True)
        old = [p for p in (folder / "packs").iterdir() if p.suffix == ".retired"]
        assert len(old) == 1 and store.sweep(grace=60) == 0
    assert reindex(folder) == 1
    with AdapterStore(folder) as store:
        assert_same(store.get("k"), second)
        store.put_many({"k": first}, pack=True)  # as before: its pack is in use again
    assert reindex(folder) == 1
    with AdapterStore(folder) as store:
        assert_same(store.get("k"), first)
        assert store.sweep(grace=0) > 0
        assert [path.suffix for path in (folder / "packs").iterdir()] == [".safetensors"]
        assert_same(store.get("k"), first)


def test_a_pack_that_is_written_again_is_in_use(folder, tiny_base, tiny_spec):
    adapter = random_adapter(tiny_spec, tiny_base)
    with AdapterStore(folder) as store:
        store.put_many({"k": adapter}, pack=True)
        (pack,) = (folder / "packs").iterdir()
        pack.write_bytes(pack.read_bytes()[:-1] + b"x")  # damaged: deleted, and made again
        store.delete("k")
        store.put_many({"k": adapter}, pack=True)
    assert reindex(folder) == 1
    with AdapterStore(folder) as store:
        assert_same(store.get("k"), adapter)


def test_reindex_from_folders_equals_the_old_index(folder, tiny_base, tiny_spec):
    adapters = [random_adapter(tiny_spec, tiny_base, seed=i) for i in range(6)]
    with AdapterStore(folder) as store:
        store.put_many({f"f{i}": adapter for i, adapter in enumerate(adapters)})
        store.put_many({f"p{i}": adapter for i, adapter in enumerate(adapters)}, pack=True)
        store.put("f0", adapters[5])  # replaces: the newest folder counts
        store.delete("f1")
        store.put_record("document", "d", {"text": "x"})
    before = table(folder)
    assert reindex(folder) == 11 and table(folder) == before
    with AdapterStore(folder) as store:
        assert store.verify() == [] and store.get_record("document", "d") == {"text": "x"}
        assert_same(store.get("f0"), adapters[5])
    (folder / "index.sqlite").write_bytes(b"no database" * 1000)
    with AdapterStore(folder) as store, pytest.raises(ValueError, match="prag store reindex"):
        len(store)
    assert reindex(folder) == 11 and table(folder) == before
    (folder / "index.sqlite").unlink()
    with pytest.raises(ValueError, match=r"without .*index.sqlite.*reindex"):
        AdapterStore(folder)
    assert reindex(folder) == 11 and table(folder) == before


def test_ridge_memory_comes_back(folder, adapter):
    memory = RidgeMemory(torch.ones(6, 1, 1).half(), torch.ones(6, 64), torch.ones(6))
    rich = replace(adapter, memory=memory, shared_rows=1)
    with AdapterStore(folder) as store:
        store.put("a", rich)
        store.put_many({"b": rich}, pack=True)
        for key in ("a", "b"):
            assert_same(store.get(key), rich)
        assert (store.weights_path("a").parent / "memory.safetensors").exists()
        assert store.verify() == []


def test_records(folder):
    with AdapterStore(folder) as store:
        store.put_records("augmentation", {"b": {"text": "é", "pairs": [["q", "a"]]}, "a": {}})
        store.put_record("document", "a", {"n": 1})
        assert store.get_record("augmentation", "b") == {"text": "é", "pairs": [["q", "a"]]}
        assert store.get_record("augmentation", "c") is None
        assert [key for key, _ in store.records("augmentation")] == ["a", "b"]
        assert list(store.record_keys("augmentation")) == ["a", "b"]
        assert dict(store.records("document")) == {"a": {"n": 1}}
        assert store.delete_record("document", "a") and not store.delete_record("document", "a")
        assert len(store) == 0 and store.stats()["records"] == 2
        with pytest.raises(ValueError, match="that is not JSON"):
            store.put_record("document", "a", {"n": {1}})
        with pytest.raises(ValueError, match="expected a kind"):
            store.put_record("", "a", {})


def test_long_scans_come_in_order_and_whole(folder):
    keys = [f"{i:05}" for i in range(2500)]
    with AdapterStore(folder) as store:
        store.put_records("document", {key: {"n": key} for key in reversed(keys)})
        assert [key for key, _ in store.records("document")] == keys
        assert list(store.record_keys("document")) == keys
        assert [key for key, _ in store.records("document", "0200")] == keys[2000:2010]


def test_documents_without_adapter_are_named(folder, adapter):
    with AdapterStore(folder) as store:
        store.put_records("document", {"doc0": {}, "doc1": {}})
        store.put("doc0-x", adapter)
        assert store.documents_without_adapter() == ["doc1"]


def test_version_changes_with_what_others_write(folder, adapter):
    with AdapterStore(folder) as store, AdapterStore(folder) as other:
        before = store.version()
        store.put("a", adapter)
        assert store.version() == before
        other.delete("a")
        assert store.version() != before and not store.has("a")


@pytest.mark.parametrize("pack", [True, False])
def test_a_key_has_any_length_but_none(folder, adapter, pack):
    with AdapterStore(folder) as store:
        store.put_many({"x" * 2000: adapter}, pack)
        assert_same(store.get("x" * 2000), adapter)
        with pytest.raises(ValueError, match="got an empty key"):
            store.put_many({"": adapter}, pack)


def test_a_closed_store_says_so_and_several_openings_are_one_store(folder, adapter):
    store = AdapterStore(folder)
    with AdapterStore(folder) as second:
        second.put("a", adapter)
        assert len(store) == 1
    store.close()
    store.close()
    with pytest.raises(ValueError, match="got a closed store"):
        len(store)


def test_bench_reports_size_and_times(tmp_path):
    rows = {row.name: row.ours for row in measure_store(tmp_path / "store", 300)}
    assert rows["size over raw, swept"] < 40  # a small index, mostly
    assert 0 < rows["get one at random"] <= rows["get, 99th percentile"] < 1000
