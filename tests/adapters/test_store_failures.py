"""AdapterStore: several processes, full and read-only disks, damaged and foreign files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest

from prag_core.adapters.store import DATABASES, FORMAT, AdapterStore
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter

ROOT = Path(__file__).parent.parent
# A writer process that needs no torch, so that it starts quickly: folder, name, count, value.
WRITER = f"""
import sys
from pathlib import Path
from prag_core.adapters.lmdb_file import LmdbFile
from prag_core.adapters.segments import Segments
folder, name, count, value = sys.argv[1:5]
value = Path(value).read_bytes()
file = LmdbFile(Path(folder), {DATABASES!r}, {FORMAT!r}, map_size=1 << 16)
for i in range(int(count)):
    Segments(file).put({{f"{{name}}{{i}}".encode(): value}})
    print(i, flush=True)
"""


def start_writer(folder: Path, name: str, count: int, value: bytes, before: str = ""):
    """Start a process that puts `value` under name0, name1, ..., one transaction each."""
    source = folder.parent / "value"
    source.write_bytes(value)
    command = [sys.executable, "-c", before + WRITER, str(folder), name, str(count), str(source)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_two_writer_processes_and_an_open_reader_lose_nothing(folder, adapter):
    value = adapter.to_bytes()
    with AdapterStore(folder, map_size=1 << 16) as store:
        writers = [start_writer(folder, name, 60, value) for name in ("one-", "two-")]
        for i in range(60):
            store.put(f"three-{i}", adapter)
        for writer in writers:
            _, errors = writer.communicate(timeout=60)
            assert writer.returncode == 0, errors
        expected = {f"{name}-{i}" for name in ("one", "two", "three") for i in range(60)}
        assert set(store.keys()) == expected and store.verify() == []


def test_reader_follows_a_map_that_another_process_grew(folder, adapter):
    AdapterStore(folder, map_size=1 << 16).close()
    with AdapterStore(folder, readonly=True, map_size=1 << 16) as reader:
        writer = start_writer(folder, "k", 100, adapter.to_bytes())
        assert writer.wait(60) == 0
        assert len(reader) == 100 and reader.verify() == []


def test_threads_share_one_store(folder, adapter):
    with AdapterStore(folder, map_size=1 << 16) as store:
        threads = [
            threading.Thread(target=lambda n=n: [store.put(f"{n}-{i}", adapter) for i in range(20)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 80 and store.verify() == []


def test_killed_writer_loses_at_most_the_transaction_in_flight(folder, adapter):
    writer = start_writer(folder, "k", 100_000, adapter.to_bytes())
    done = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    done += [int(line) for line in writer.communicate()[0].split()]
    with AdapterStore(folder) as store:
        assert len(store) - len(done) in (0, 1)
        assert all(store.has(f"k{i}") for i in done) and store.verify() == []
        store.put("next", adapter)  # the killed writer's lock is free again


def test_quota_keeps_what_was_there_and_deleting_makes_room(folder, adapter):
    with AdapterStore(folder, map_size=1 << 16, max_bytes=200_000) as store:
        done = _fill(store, adapter, r"expected at most max_bytes=200000: raise")
        assert store.stats()["file_bytes"] <= 200_000
        with pytest.raises(OSError, match="max_bytes"):
            store.put_many((f"batch{i}", adapter) for i in range(100))
        assert set(store.keys()) == done and store.verify() == []
        for key in sorted(done)[:3]:
            store.delete(key)
        store.put("again", adapter)
    with AdapterStore(folder) as store:
        assert len(store) == len(done) - 2 and store.verify() == []


def _fill(store: AdapterStore, adapter, error: str) -> set[str]:
    """Put until it fails with `error`; return the keys that were put."""
    done = set()
    with pytest.raises(OSError, match=error) as caught:
        for i in range(2000):
            store.put(f"k{i}", adapter)
            done.add(f"k{i}")
    assert caught.value.errno in (errno.ENOSPC, errno.EIO)
    return done


def test_full_disk_keeps_what_was_there(small_disk, adapter):
    with AdapterStore(small_disk / "store") as store:
        done = _fill(store, adapter, "got no room to write .*: free some and try again")
        assert len(done) > 50
        assert set(store.keys()) == done and store.verify() == []
        with pytest.raises(OSError, match="No space left"):
            store.compact()
    with AdapterStore(small_disk / "store") as store:
        assert set(store.keys()) == done and store.verify() == []


def test_file_size_limit_keeps_what_was_there(folder, adapter):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))\n"
    writer = start_writer(folder, "k", 1000, adapter.to_bytes(), before=limit)
    output, errors = writer.communicate(timeout=60)
    assert writer.returncode == 1 and "OSError: [Errno" in errors
    assert "expected free space" in errors
    with AdapterStore(folder) as store:
        assert len(store) == len(output.split()) > 5 and store.verify() == []


def test_readonly_folder(small_disk, adapter):
    with AdapterStore(small_disk / "store") as store:
        store.put("a", adapter)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"cannot be written.*readonly=True"):
        AdapterStore(small_disk / "store")
    with pytest.raises(OSError, match="choose another path"):
        AdapterStore(small_disk / "other")
    with AdapterStore(small_disk / "store", readonly=True) as store:
        assert_same(store.get("a"), adapter)


def test_folder_without_write_permission(folder, adapter):
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root; test_readonly_folder covers it there")
    with AdapterStore(folder) as store:
        store.put("a", adapter)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o500 if path.is_dir() else 0o400)
    with pytest.raises(OSError, match=r"cannot be written.*readonly=True"):
        AdapterStore(folder)
    with AdapterStore(folder, readonly=True) as store:
        assert_same(store.get("a"), adapter)
    folder.chmod(0o700)


def test_readonly_store_refuses_changes_and_a_missing_one(folder, adapter):
    with pytest.raises(FileNotFoundError, match="got no store at"):
        AdapterStore(folder, readonly=True)
    AdapterStore(folder).close()
    with AdapterStore(folder, readonly=True) as store, pytest.raises(OSError, match="readonly"):
        store.put("a", adapter)


def test_path_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="expected a folder"):
        AdapterStore(tmp_path / "file")


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("content", ["text", "some text\n" * 5000])
def test_foreign_file(folder, content, readonly):
    folder.mkdir()
    (folder / "data.mdb").write_text(content)
    with pytest.raises(ValueError, match=r"LMDB cannot use.*expected an adapter store"):
        AdapterStore(folder, readonly=readonly)
    assert (folder / "data.mdb").read_text() == content


def test_empty_file(folder, monkeypatch):
    monkeypatch.setattr("prag_core.adapters.lmdb_file.PATIENCE", 0.0)
    folder.mkdir()
    (folder / "data.mdb").touch()
    with pytest.raises(ValueError, match="got an empty file"):
        AdapterStore(folder)


def test_reader_comes_before_the_writers_first_transaction(folder):
    folder.mkdir()
    lmdb.open(str(folder), max_dbs=len(DATABASES)).close()  # pages are there, nothing in them
    code = f"""
from pathlib import Path
from prag_core.adapters.lmdb_file import LmdbFile
print("opening", flush=True)
LmdbFile(Path({str(folder)!r}), {DATABASES!r}, {FORMAT!r}, readonly=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as reader:
        reader.stdout.readline()
        time.sleep(0.3)
        assert reader.poll() is None
        AdapterStore(folder).close()
        assert reader.wait(60) == 0


def test_truncated_file(folder, adapter):
    with AdapterStore(folder) as store:
        store.put_many((f"k{i}", adapter) for i in range(20))
    size = (folder / "data.mdb").stat().st_size
    os.truncate(folder / "data.mdb", size // 2)
    for readonly in (True, False):
        with pytest.raises(ValueError, match=rf"of {size // 2} bytes, expected {size}: it was"):
            AdapterStore(folder, readonly=readonly)


@pytest.mark.parametrize("other", [None, {**FORMAT, "version": 2}])
def test_another_format_is_refused(folder, other):
    with lmdb.open(str(folder)) as env, env.begin(write=True) as transaction:
        transaction.put(b"x", b"y")
        if other:
            transaction.put(b"format", json.dumps(other).encode())
    for readonly in (True, False):
        with pytest.raises(ValueError, match=r"of format .*, expected .*'version': 1"):
            AdapterStore(folder, readonly=readonly)


def test_damaged_adapter_is_named_and_the_others_stay_readable(folder, tiny_base, tiny_spec):
    adapters = {f"k{i}": random_adapter(tiny_spec, tiny_base, seed=i) for i in range(4)}
    with AdapterStore(folder) as store:
        store.put_many(adapters)
        store.put_record("document", "d", {"text": "unmistakable"})
        value = store.get_bytes("k2")
    content = bytearray((folder / "data.mdb").read_bytes())
    content[content.index(value) + len(value) - 5] ^= 1
    content[content.index(b"unmistakable")] ^= 1
    (folder / "data.mdb").write_bytes(content)
    with AdapterStore(folder) as store:
        assert store.verify() == ["k2", "document/d"]
        with pytest.raises(ValueError, match=r"damaged bytes for 'k2'.*parametrize"):
            store.get("k2")
        with pytest.raises(ValueError, match="damaged bytes for record document/d"):
            store.get_record("document", "d")
        with pytest.raises(ValueError, match="'k2'"):
            store.compact()
        assert_same(store.get("k3"), adapters["k3"])
        store.delete("k2")
        store.delete_record("document", "d")
        store.compact()
        assert store.verify() == [] and len(store) == 3


def test_truncated_value_is_named(folder, adapter):
    with AdapterStore(folder) as store:
        store._segments.put({b"short": adapter.to_bytes()[:-7]})
        store.put("good", adapter)
        assert store.verify() == ["short"]
        with pytest.raises(ValueError, match=r"adapter 'short': got .* bytes that are not an"):
            store.get("short")
