"""AdapterStore: round trips, growth, compacting, records, opening and closing."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from prag_core.adapters.adapter import AdapterSpec, adapter_key
from prag_core.adapters.store import AdapterStore, UnknownKeyError
from prag_core.speed.store import bench_store
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_round_trip_after_reopening(folder, tiny_base, tiny_spec):
    adapters = {f"key{i}": random_adapter(tiny_spec, tiny_base, seed=i) for i in range(5)}
    with AdapterStore(folder) as store:
        store.put_many(adapters)
        store.put("single", adapters["key0"])
    with AdapterStore(folder, readonly=True) as store:
        assert list(store) == [*sorted(adapters), "single"] and len(store) == 6
        assert list(store.keys(prefix="key")) == sorted(adapters)
        for key, found in store.items():
            assert_same(found, adapters.get(key, adapters["key0"]))
        assert store.has("key1") and "nothing" not in store and store.verify() == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_real_keys(folder, tiny_base, dtype):
    spec = AdapterSpec(tiny_base.fingerprint, 2, 32, layers=(0, 1), dtype=dtype)
    adapter = random_adapter(spec, tiny_base)
    key = adapter_key("0" * 32, spec, "1" * 16)
    with AdapterStore(folder) as store:
        store.put(key, adapter)
        assert_same(store.get(key, expect=spec), adapter)


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


def test_replacing_forever_does_not_grow_the_file(folder, adapter):
    with AdapterStore(folder) as store:
        for _ in range(5):
            store.put("a", adapter)
        size = store.stats()["file_bytes"]
        for _ in range(50):
            store.put("a", adapter)
        assert store.stats()["file_bytes"] == size


def test_packed_adapters_stay_near_their_raw_size_and_compact_packs(folder, adapter):
    raw = len(adapter.to_bytes())
    with AdapterStore(folder, map_size=1 << 16) as store:
        for i in range(40):
            store.put(f"single{i}", adapter)
        store.put_many((f"packed{i}", adapter) for i in range(360))
        for i in range(0, 360, 3):
            store.delete(f"packed{i}")
        before = store.stats()
        store.compact()
        after = store.stats()
        assert before["count"] == after["count"] == len(store) == 280
        assert before["bytes"] == after["bytes"] == 280 * raw
        assert after["file_bytes"] < 1.03 * 280 * raw + 65536 < before["file_bytes"]
        assert store.verify() == []
        store.put("after", adapter)
        assert_same(store.get("after"), adapter)
    assert {path.name for path in folder.iterdir()} == {"data.mdb", "lock.mdb"}


def test_compact_refuses_while_another_process_has_the_store_open(folder, adapter):
    hold = f"import fcntl, os; fcntl.flock(os.open({str(folder)!r}, 0), fcntl.LOCK_SH); print(1, "
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        other = subprocess.Popen(
            [sys.executable, "-c", hold + "flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        other.stdout.readline()
        with pytest.raises(ValueError, match="open in another process, expected it closed"):
            store.compact()
        other.communicate(b"\n")
        store.compact()
        assert_same(store.get("a"), adapter)


def test_compact_that_fails_keeps_the_old_file(folder, adapter, monkeypatch):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        monkeypatch.setattr("prag_core.adapters.lmdb_file.os.replace", _no_space)
        with pytest.raises(OSError, match="No space"):
            store.compact()
        assert_same(store.get("a"), adapter)
    monkeypatch.undo()
    with AdapterStore(folder) as store:
        assert_same(store.get("a"), adapter)
    assert {path.name for path in folder.iterdir()} == {"data.mdb", "lock.mdb"}


def _no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_records(folder):
    with AdapterStore(folder) as store:
        store.put_records("augmentation", {"b": {"text": "é", "pairs": [["q", "a"]]}, "a": {}})
        store.put_record("document", "a", {"n": 1})
        assert store.get_record("augmentation", "b") == {"text": "é", "pairs": [["q", "a"]]}
        assert store.get_record("augmentation", "c") is None
        assert [key for key, _ in store.records("augmentation")] == ["a", "b"]
        store.compact()
        assert dict(store.records("document")) == {"a": {"n": 1}}
        assert store.delete_record("document", "a") and not store.delete_record("document", "a")
        assert len(store) == 0 and store.stats()["records"] == 2
        with pytest.raises(ValueError, match="that is not JSON"):
            store.put_record("document", "a", {"n": {1}})
        with pytest.raises(ValueError, match="expected a kind"):
            store.put_record("", "a", {})


@pytest.mark.parametrize(("key", "size"), [("", 0), ("x" * 600, 600)])
def test_key_length(folder, adapter, key, size):
    with AdapterStore(folder) as store, pytest.raises(ValueError, match=f"a key of {size} bytes"):
        store.put(key, adapter)


def test_another_base_or_spec_is_refused(folder, tiny_base, tiny_spec, adapter):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        other_base = AdapterSpec("f" * 16, 2, 32, layers=(0, 1))
        with pytest.raises(ValueError, match="expected one of ffffffffffffffff: load"):
            store.get("a", expect=other_base)
        other_spec = AdapterSpec(tiny_base.fingerprint, 4, 32, layers=(0,))
        with pytest.raises(ValueError, match=r"another spec: rank 2 \(expected 4\), layers"):
            store.get("a", expect=other_spec)
        assert_same(store.get("a", expect=tiny_spec), adapter)


def test_closed_store_and_second_opening_say_so(folder):
    store = AdapterStore(folder)
    with pytest.raises(ValueError, match="already open in this process"):
        AdapterStore(folder)
    assert len(store) == 0  # the refused opening left the first one intact
    store.close()
    store.close()
    with AdapterStore(folder):
        pass
    with pytest.raises(ValueError, match="got a closed store"):
        len(store)


def test_a_store_that_was_dropped_unclosed_can_be_opened_and_compacted(folder, adapter):
    store = AdapterStore(folder)
    store.put("a", adapter)
    del store
    with AdapterStore(folder) as store:
        store.compact()
        assert_same(store.get("a"), adapter)


def test_bench_reports_size_and_times(tmp_path):
    report = bench_store(tmp_path / "store", 300)
    assert report["count"] == 300 and report["compacted_overhead_percent"] < 5
    assert 0 < report["get_bytes_ms"] <= report["get_ms"] < 1000
