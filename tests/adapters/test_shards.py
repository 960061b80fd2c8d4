"""Shards: many stores are read as one; what does not belong together, or was cut, is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.adapters.adapter import adapter_key
from prag_core.adapters.shards import open_shards, open_store, push, write_shard
from prag_core.adapters.store import AdapterStore, DamagedError
from prag_core.adapters.store_index import StoreIndex
from prag_core.files import locked
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made(tiny_base, tiny_spec):
    """Six adapters by key, as one parametrizer makes them."""
    adapters = {}
    for seed in range(6):
        adapter = random_adapter(tiny_spec, tiny_base, seed)
        key = adapter_key(f"{seed:032x}", tiny_spec, "p" * 16)
        adapters[key] = replace(adapter, metadata={"document_id": f"{seed:032x}"})
    return adapters


@pytest.fixture
def shards(tmp_path, made):
    """Three shards, the first with folders, with a document's record each."""
    keys = sorted(made)
    for i in range(3):
        with AdapterStore(tmp_path / "shards" / f"{i}-of-3") as store:
            store.put_many({key: made[key] for key in keys[i::3]}, pack=i > 0)
            store.put_record("document", f"{i:032x}", {"text": f"Text {i}."})
    return tmp_path / "shards"


def test_shards_are_read_as_one_store(shards, made):
    with open_store(shards) as store:
        assert list(store) == sorted(made) and store.verify() == []
        for key, adapter in made.items():
            assert_same(store.get(key), adapter)
        assert [r["text"] for _, r in store.records("document")] == [
            "Text 0.",
            "Text 1.",
            "Text 2.",
        ]
        assert store.weights_path(min(made)).is_relative_to(shards / "0-of-3")
        with pytest.raises(OSError, match="readonly"):
            store.delete(min(made))
    assert sorted(path.name for path in shards.iterdir()) == ["0-of-3", "1-of-3", "2-of-3"]


def test_opened_again_new_changed_and_removed_shards_are_seen(shards, made, adapter, caplog):
    new = adapter_key("f" * 32, adapter.spec, "p" * 16)
    open_store(shards).close()
    write_shard(shards, {new: adapter}, {})
    write_shard(shards, {new: adapter}, {})  # a second try changes nothing
    with open_store(shards) as store:
        assert len(store) == 7
        assert_same(store.get(new), adapter)
    with AdapterStore(shards / "1-of-3") as one:
        one.delete(sorted(made)[1])
    with open_store(shards) as store:
        assert len(store) == 6 and sorted(made)[1] not in store
    assert "lacks" not in caplog.text
    (shards / "2-of-3").rename(shards.parent / "elsewhere")
    with open_store(shards) as store:
        assert len(store) == 4 and store.get_record("document", f"{2:032x}") is None
    assert "lacks the shards [2] of 3" in caplog.text


@pytest.mark.parametrize(
    ("changes", "fingerprint", "message"),
    [
        ({"base_model": "another"}, "p", "base_model another"),
        ({"rank": 3}, "p", "rank 3 \\(expected 2\\)"),
        ({}, "q", "another parametrizer"),
    ],
)
def test_a_shard_of_another_kind_is_refused(
    shards, tiny_base, tiny_spec, changes, fingerprint, message
):
    spec = replace(tiny_spec, **changes)
    key = adapter_key("f" * 32, spec, fingerprint * 16)
    write_shard(shards, {key: random_adapter(spec, tiny_base)}, {})
    with pytest.raises(ValueError, match=message) as error:
        open_store(shards)
    assert "expected one kind of adapter" in str(error.value)


def test_a_pack_cut_short_and_a_missing_one_are_refused(shards):
    (pack,) = (shards / "1-of-3" / "packs").iterdir()
    pack.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"1-of-3/packs/.*cut short"):
        open_store(shards)
    pack.unlink()
    with pytest.raises(FileNotFoundError, match="1-of-3/packs/"):
        open_store(shards)


@pytest.mark.parametrize("fault", ["a pack cut short", "another kind"])
def test_a_refused_shard_leaves_the_store_that_others_read(
    shards, made, tiny_base, tiny_spec, fault
):
    (pack,) = (shards / "1-of-3" / "packs").iterdir()
    whole = pack.read_bytes()
    with open_store(shards) as reader, AdapterStore(shards / "0-of-3") as changed:
        changed.delete(min(made))  # so that all shards are read again
        if fault == "a pack cut short":
            pack.write_bytes(whole[:-1])
        else:
            spec = replace(tiny_spec, rank=3)
            key = adapter_key("f" * 32, spec, "p" * 16)
            write_shard(shards, {key: random_adapter(spec, tiny_base)}, {})
        with pytest.raises(ValueError, match=f"{shards}/.*(cut short|rank 3)"):
            open_store(shards)
        assert list(reader) == sorted(made) and len(list(reader.records("document"))) == 3
        if fault == "a pack cut short":  # mended, the change is seen, by who reads already, too
            version = reader.version()
            pack.write_bytes(whole)
            open_store(shards).close()
            assert list(reader) == sorted(made)[1:] and reader.version() != version


def test_of_new_shards_none_is_taken_where_one_is_refused(shards, made, adapter):
    with open_store(shards) as reader:
        for name in "ab":
            with AdapterStore(shards / name) as new:
                key = adapter_key(name * 32, adapter.spec, "p" * 16)
                new.put_many({key: adapter}, pack=True)
        (pack,) = (shards / "b" / "packs").iterdir()
        pack.write_bytes(b"")
        with pytest.raises(ValueError, match=r"shards/b/packs/.*cut short"):
            open_store(shards)
        assert list(reader) == sorted(made)


def test_those_who_read_see_a_changed_place_in_one_step(shards, made, monkeypatch):
    seen, absorb = [], StoreIndex.absorb
    with open_store(shards) as reader, AdapterStore(shards / "1-of-3") as changed:
        changed.delete(sorted(made)[1])

        def look(index, other, prefix):
            absorb(index, other, prefix)
            seen.append((len(reader), len(list(reader.records("document")))))

        monkeypatch.setattr(StoreIndex, "absorb", look)
        with open_store(shards) as store:
            assert seen == [(6, 3)] * 3 and len(reader) == len(store) == 5
            assert not (store.path / "tmp").exists()


def test_a_pack_damaged_later_is_named(shards, made):
    with open_store(shards) as store:
        (pack,) = (shards / "1-of-3" / "packs").iterdir()
        pack.write_bytes(bytes(pack.stat().st_size))
        with pytest.raises(DamagedError, match="1-of-3/packs/"):
            store.get(sorted(made)[1])


def test_a_shard_whose_index_is_damaged_is_named(shards):
    (shards / "1-of-3" / "index.sqlite").write_bytes(b"no index" * 100)
    with pytest.raises(ValueError, match=r"1-of-3/index\.sqlite that SQLite cannot use"):
        open_store(shards)


def test_push_copies_what_a_place_lacks(shards, made, tmp_path, adapter):
    target, done = tmp_path / "target", []
    with pytest.raises(FileNotFoundError, match=r"expected index\.sqlite"):
        open_shards(target)
    with open_store(shards) as store:
        assert push(store, target, done.append) == 6 and done == [0, 6]
        assert push(store, target, done.append) == 0 and done[2:] == [6]
    with open_store(target) as copy:
        assert list(copy) == sorted(made) and len(list(copy.records("document"))) == 3
        assert_same(copy.get(min(made)), made[min(made)])


def test_a_place_may_have_any_name(shards, tmp_path, made):
    named = shards.rename(tmp_path / "wiki [1]*?")
    with open_store(named, create=False) as store:
        assert set(store.keys()) == set(made)


def test_shards_of_one_kind_each_are_joined_by_one_of_both(shards, tiny_base, tiny_spec):
    spec = replace(tiny_spec, rank=3)
    other = random_adapter(spec, tiny_base)
    key = adapter_key("f" * 32, spec, "p" * 16)
    with open_store(shards) as store:
        mixed = {key: other, min(store): store.get(min(store))}
    for name, adapters in (("another", {key: other}), ("both", mixed)):
        with AdapterStore(shards / name) as new:
            new.put_many(adapters, pack=True)
    with open_store(shards) as store:
        assert len(store) == 7


def _names(place):
    return sorted(path.name for path in place.iterdir() if path.is_dir())


def test_push_refuses_before_anything_is_written(shards, tiny_base, tiny_spec, tmp_path):
    spec = replace(tiny_spec, rank=3)
    key = adapter_key("f" * 32, spec, "p" * 16)
    with open_store(shards) as store, AdapterStore(tmp_path / "single") as single:
        single.put(key, random_adapter(spec, tiny_base))
        before = _names(single.path)
        for source in (store, single):
            with pytest.raises(ValueError, match="single, which is a store itself"):
                push(source, single.path, print)
        assert _names(single.path) == before
        with pytest.raises(ValueError, match=r"single of rank 3 \(expected 2\), expected one kind"):
            push(single, shards, print)
        assert _names(shards) == ["0-of-3", "1-of-3", "2-of-3"]
        with locked(shards), pytest.raises(TimeoutError, match="another process writes to"):
            push(store, shards, print)
    open_store(shards).close()


def test_a_file_url_is_the_folder(shards, made, tmp_path):
    target = tmp_path / "target"
    with open_store(f"file://{shards}") as store:
        assert push(store, f"file://{target}", lambda done: None) == 6
    with open_store(target) as copy, open_store(f"file://{target}") as same:
        assert list(copy) == list(same) == sorted(made)
