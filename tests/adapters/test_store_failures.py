"""AdapterStore: several processes, kills, full and read-only disks, damaged and foreign files."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from prag_core.adapters import store_places
from prag_core.adapters.store import AdapterStore, reindex
from tests.fixtures.stores import assert_same, table
from tests.fixtures.tiny import random_adapter

KILLS = int(os.environ.get("PRAG_KILLS", "50"))


class Writer:
    """A forked process that puts and deletes, and says what the store has acknowledged."""

    def __init__(self, folder: Path, name: str, adapter, count: int, limit: int = 0) -> None:
        """Put name0, name1, ...; after every fourth put delete one, and put 70 as a pack.

        Args:
            folder: of the store.
            name: begins the keys.
            adapter: what is put.
            count: puts.
            limit: of a file's size, in bytes.
        """
        reading, writing = os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(reading)
            try:
                if limit:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                _write(folder, name, adapter, count, writing)
                os._exit(0)
            except BaseException as error:
                os.write(writing, f"error {error!r}\n".encode())
                os._exit(1)
        os.close(writing)
        self.lines = os.fdopen(reading)

    def end(self, kill: bool = False) -> tuple[set[str], set[str], list[str]]:
        """Wait for the end; return acknowledged keys, deleted keys and errors.

        Of a key whose deletion was under way nothing is said.
        """
        if kill:
            os.kill(self.process, signal.SIGKILL)
        rows = [line.split(" ", 1) for line in self.lines.read().splitlines()]
        os.waitpid(self.process, 0)
        words = ("put", "try", "del", "error")
        said = {word: [text for first, text in rows if first == word] for word in words}
        return set(said["put"]) - set(said["try"]), set(said["del"]), said["error"]


def _write(folder: Path, name: str, adapter, count: int, pipe: int) -> None:
    def say(*lines: str) -> None:
        os.write(pipe, "".join(f"{line}\n" for line in lines).encode())

    with AdapterStore(folder) as store:
        for i in range(count):
            store.put(f"{name}{i}", adapter)
            say(f"put {name}{i}")
            if i % 4 == 3:
                say(f"try {name}{i - 1}")
                store.delete(f"{name}{i - 1}")
                say(f"del {name}{i - 1}")
                keys = [f"{name}{i}-{n}" for n in range(70)]
                store.put_many({key: adapter for key in keys})
                say(*(f"put {key}" for key in keys))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_nothing_acknowledged_is_lost_by_kills(folder, adapter):
    """PRAG_KILLS sets how often two writers are killed under load, at random moments."""
    draw, kept, gone = random.Random(0), set(), set()
    for turn in range(KILLS):
        writers = [Writer(folder, f"{turn}-{name}-", adapter, 1000) for name in "ab"]
        time.sleep(0.02 + 0.5 * draw.random())
        for writer in writers:
            acknowledged, deleted, errors = writer.end(kill=True)
            assert not errors
            kept |= acknowledged
            gone |= deleted
        with AdapterStore(folder) as store:
            keys = set(store)
            assert kept <= keys and not gone & keys
    with AdapterStore(folder) as store:
        assert store.verify() == [] and len(kept) > KILLS
        store.sweep(grace=0)
        assert store.verify() == [] and kept <= set(store)


def test_two_writer_processes_and_this_one_lose_nothing(folder, adapter):
    with AdapterStore(folder) as store:
        writers = [Writer(folder, name, adapter, 12) for name in ("one-", "two-")]
        for i in range(20):
            store.put(f"three-{i}", adapter)
        expected = {f"three-{i}" for i in range(20)}
        for writer in writers:
            acknowledged, _, errors = writer.end()
            assert not errors
            expected |= acknowledged
        assert len(expected) == 20 + 2 * (9 + 3 * 70)
        assert set(store.keys()) == expected and store.verify() == []


def test_a_reader_sees_what_another_process_writes_and_removes(folder, adapter):
    AdapterStore(folder).close()
    with AdapterStore(folder, readonly=True) as reader:
        before = reader.version()
        acknowledged, deleted, _ = Writer(folder, "k", adapter, 4).end()
        assert set(reader) == acknowledged and reader.verify() == []
        assert deleted == {"k2"} and not reader.has("k2") and reader.version() != before


def test_processes_sweep_while_others_read_and_write(folder, adapter, tiny_base, tiny_spec):
    other = random_adapter(tiny_spec, tiny_base, seed=1)
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        writer = Writer(folder, "k", adapter, 8)
        for i in range(10):
            store.put("a", other if i % 2 else adapter)
            store.sweep(grace=5)
            assert_same(store.get("a"), other if i % 2 else adapter)
        assert not writer.end()[2] and store.verify() == []


def test_threads_share_one_store(folder, adapter):
    with AdapterStore(folder) as store:
        threads = [
            threading.Thread(target=lambda n=n: [store.put(f"{n}-{i}", adapter) for i in range(10)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 40 and store.verify() == []


def test_a_forked_child_opens_the_index_anew(folder, adapter):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        child = os.fork()
        if not child:
            os._exit(0 if store.get("a") and not store.delete("b") else 1)
        assert os.waitpid(child, 0)[1] == 0
        store.put("b", adapter)
        assert len(store) == 2


def test_full_disk_keeps_what_was_there(small_disk, adapter):
    with AdapterStore(small_disk / "store") as store:
        done = set()
        with pytest.raises(OSError, match="free some") as caught:
            for i in range(2000):
                store.put(f"k{i}", adapter)
                done.add(f"k{i}")
        assert caught.value.errno in (errno.ENOSPC, errno.EIO)
        assert len(done) > 50
        assert set(store.keys()) == done and store.verify() == []
        with pytest.raises(OSError, match="free some"):
            store.put_many((f"batch{i}", adapter) for i in range(100))
        assert set(store.keys()) == done and store.verify() == []
    with AdapterStore(small_disk / "store") as store:
        assert set(store.keys()) == done and store.verify() == []
        store.sweep(grace=0)  # what the failed puts left
        for key in sorted(done)[:5]:  # the journal that stays has room for one at a time
            store.delete(key)
        store.sweep(grace=0)
        store.put("again", adapter)


def test_file_size_limit_keeps_what_was_there(folder, adapter):
    acknowledged, _, errors = Writer(folder, "k", adapter, 1000, limit=500_000).end()
    assert len(errors) == 1 and "free s" in errors[0]
    with AdapterStore(folder) as store:
        assert set(store) >= acknowledged and len(acknowledged) > 5 and store.verify() == []


def test_a_failing_rename_keeps_what_was_there(folder, adapter, tiny_base, tiny_spec, monkeypatch):
    other = random_adapter(tiny_spec, tiny_base, seed=1)
    with AdapterStore(folder) as store:
        store.put("a", adapter)

        def full(path, target):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", full)
            with pytest.raises(OSError, match=r"got no room to write .*: free some and try again"):
                store.put("a", other)
        assert_same(store.get("a"), adapter)
        assert not any((folder / "tmp").iterdir()) and store.verify() == []
        store.put("a", other)


@pytest.mark.parametrize("readonly", [True, None])
def test_readonly_mount(small_disk, adapter, readonly):
    with AdapterStore(small_disk / "store") as store:
        store.put("a", adapter)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"cannot be written.*readonly=True"):
        AdapterStore(small_disk / "store")
    with pytest.raises(OSError, match="choose another path"):
        AdapterStore(small_disk / "other")
    with AdapterStore(small_disk / "store", readonly) as store:
        assert_same(store.get("a"), adapter)
        assert store.verify() == [] and store.readonly
        with pytest.raises(OSError, match="opened readonly"):
            store.put("b", adapter)


def test_a_change_that_a_killed_writer_left_on_a_readonly_mount_is_refused(small_disk, adapter):
    with AdapterStore(small_disk / "store") as store:
        store.put("a", adapter)
        child = os.fork()
        if not child:
            with AdapterStore(small_disk / "store") as own, own._index.writing() as connection:
                connection.execute("PRAGMA cache_size=1")  # so that pages reach the file at once
                connection.execute("PRAGMA cache_spill=1")
                rows = [("x", f"{i}", "y" * 3000, 0) for i in range(200)]
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with (
        AdapterStore(small_disk / "store", readonly=True) as store,
        pytest.raises(OSError, match="open the store once where it can be written"),
    ):
        len(store)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with AdapterStore(small_disk / "store", readonly=True) as store:
        assert_same(store.get("a"), adapter)
        assert store.stats()["records"] == 0


def test_folder_without_write_permission(folder, adapter):
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root; test_readonly_mount covers it there")
    with AdapterStore(folder) as store:
        store.put("a", adapter)
    folder.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot be written.*readonly=True"):
        AdapterStore(folder)
    with AdapterStore(folder, readonly=None) as store:
        assert_same(store.get("a"), adapter)
    folder.chmod(0o700)


def test_readonly_store_refuses_changes_and_a_missing_one(folder, adapter):
    for readonly in (True, None):
        with pytest.raises(FileNotFoundError, match="got no store at"):
            AdapterStore(folder, readonly)
    AdapterStore(folder).close()
    with AdapterStore(folder, readonly=True) as store:
        for change in (
            lambda: store.put("a", adapter),
            lambda: store.delete("a"),
            lambda: store.put_record("document", "a", {}),
            lambda: store.sweep(),
        ):
            with pytest.raises(OSError, match="readonly"):
                change()
        assert not (folder / "tmp").exists()


def test_path_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="expected a folder"):
        AdapterStore(tmp_path / "file")


@pytest.mark.parametrize("readonly", [True, None, False])
def test_an_lmdb_store_is_refused_by_name(folder, readonly):
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"\0" * 4096)
    with pytest.raises(ValueError, match=r"got an LMDB store .*data\.mdb.*parametrize the doc"):
        AdapterStore(folder, readonly)
    assert [path.name for path in folder.iterdir()] == ["data.mdb"]


@pytest.mark.parametrize("content", ["text", "[]", '{"format": "prag-adapters", "version": 99}'])
def test_another_format_is_refused(folder, content):
    AdapterStore(folder).close()
    (folder / "store.json").write_text(content)
    for readonly in (True, False):
        with pytest.raises(ValueError, match=r"of format .*, expected .*'version': 3"):
            AdapterStore(folder, readonly)


@pytest.mark.parametrize("content", [b"x", b"some text\n" * 5000])
@pytest.mark.parametrize("readonly", [True, False])
def test_a_foreign_index_says_how_to_rebuild_it(folder, content, readonly):
    AdapterStore(folder).close()
    (folder / "index.sqlite").write_bytes(content)
    with AdapterStore(folder, readonly) as store, pytest.raises(ValueError, match="store reindex"):
        len(store)
    assert (folder / "index.sqlite").read_bytes() == content


def _flip(path: Path, place: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("pack", [True, False])
def test_a_damaged_adapter_is_named_and_the_others_stay_readable(
    folder, tiny_base, tiny_spec, pack
):
    adapters = {f"k{i}": random_adapter(tiny_spec, tiny_base, seed=i) for i in range(4)}
    with AdapterStore(folder) as store:
        store.put_many(adapters, pack)
        if pack:
            (path,) = (folder / "packs").iterdir()
            place = path.read_bytes().index(adapters["k2"].to_bytes()) + 5000
        else:
            path, place = store.weights_path("k2"), -5
        _flip(path, place)
        (line,) = store.verify()
        assert line.startswith("k2: got damaged bytes") and str(path) in line
        with pytest.raises(ValueError, match=r"damaged bytes for 'k2'.*parametrize"):
            store.get("k2")
        assert_same(store.get("k3"), adapters["k3"])
        store.sweep(grace=0)
        assert len(store.verify()) == 1
        store.delete("k2")
        store.put("k2", adapters["k2"])  # the same content: the damaged folder is replaced
        assert store.verify() == []
        assert_same(store.get("k2"), adapters["k2"])


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "prag_adapter.json", "adapter_model.safetensors"]
)
def test_verify_names_any_file_that_is_damaged_or_missing(folder, adapter, name):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        path = store.weights_path("a").parent / name
        content = path.read_bytes()
        _flip(path, len(content) // 2)
        assert str(path) in store.verify()[0]
        path.write_bytes(content[:-7])
        assert str(path) in store.verify()[0]
        path.unlink()
        assert str(path) in store.verify()[0]
        if name == "adapter_model.safetensors":
            with pytest.raises(ValueError, match=r"'a': got no file .*prag store delete --path"):
                store.get("a")


@pytest.mark.parametrize("bit", [1, 128])  # the latter leaves no UTF-8
def test_a_damaged_record_is_named_and_counts_as_none(folder, bit, caplog):
    with AdapterStore(folder) as store:
        store.put_record("document", "d", {"text": "unmistakable"})
        store.put_record("document", "e", {"text": "other"})
    path = folder / "index.sqlite"
    _flip(path, path.read_bytes().index(b"unmistakable"), bit)
    with AdapterStore(folder) as store:
        (line,) = store.verify()
        assert line.startswith("record document/d: got damaged bytes in index.sqlite")
        assert f"prag store forget --path {folder} --key d" in line
        for _ in range(2):  # told once
            assert dict(store.records("document")) == {"e": {"text": "other"}}
        assert store.get_record("document", "d") is None
        assert caplog.messages == [f"{line}: left out"]
        store.delete_record("document", "d")
        assert store.verify() == []


def test_a_damaged_row_names_the_remedy_that_keeps_all(folder, adapter):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        with store._index.writing() as connection:
            connection.execute("UPDATE adapters SET metadata = '{'")
        with pytest.raises(ValueError, match=r"damaged row of adapter 'a'.*prag store reindex"):
            store.get("a")
    assert reindex(folder) == 1
    with AdapterStore(folder) as store:
        assert_same(store.get("a"), adapter)


@pytest.mark.parametrize("read", [lambda store: store.get("a"), lambda store: store.verify()])
@pytest.mark.parametrize(("number", "message"), [
    (errno.EMFILE, "Too many open files"), (errno.ETIMEDOUT, "timed out"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_no_damage(
    folder, adapter, monkeypatch, number, message, read
):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        place = store.weights_path("a").parent

        def fail(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store_places, "_read", fail)
        with pytest.raises(OSError, match=message) as error:
            read(store)
        assert str(place) in str(error.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_read_is_named_and_keeps_no_other(
    folder, adapter, monkeypatch, number
):
    with AdapterStore(folder) as store:
        store.put("a", adapter)
        store.put("b", adapter)
        read, (row,) = store_places._read, [row for row in store.rows("a") if row.key == "a"]

        def fail(root, path, *where):
            if str(path).startswith(row.place):
                raise OSError(number, os.strerror(number))
            return read(root, path, *where)

        monkeypatch.setattr(store_places, "_read", fail)
        with pytest.raises(PermissionError, match="change its owner or mode"):
            store.get("a")
        (line,) = store.verify()
        assert line.startswith("a: got no permission to read")


def test_a_put_without_syncfs_is_the_same(folder, adapter, monkeypatch):
    monkeypatch.setattr("prag_core.adapters.durable._syncfs", lambda path: False)
    with AdapterStore(folder) as store:
        store.put_many({f"k{i}": adapter for i in range(5)})
        store.put_many({f"p{i}": adapter for i in range(5)}, pack=True)
        assert store.verify() == [] and len(table(folder)) == 10
