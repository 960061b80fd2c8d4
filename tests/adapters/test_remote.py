"""Shards on a real S3 server (moto's, in a process of its own): written, read, killed, refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from errno import ENOSPC, ETIMEDOUT

import fsspec
import pytest
from s3fs import S3FileSystem

from prag_core.adapters import shards
from prag_core.adapters.adapter import adapter_key
from prag_core.adapters.remote import clear_remote_errors
from prag_core.adapters.shards import open_store, push
from prag_core.adapters.store import AdapterStore
from tests.fixtures.command_line import run
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def server():
    """The url of an S3 server."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr.readline, "")
        yield next(m[0] for line in lines if (m := re.search(r"http://127\.0\.0\.1:\d+", line)))
        process.terminate()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """A new bucket, by url; the environment says where it is and who we are."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    S3FileSystem.clear_instance_cache()
    name = f"bucket{time.time_ns()}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def local(tmp_path, tiny_base, tiny_spec):
    """A store of five adapters in folders, each with its document."""
    with AdapterStore(tmp_path / "local") as store:
        keys = [adapter_key(f"{seed:032x}", tiny_spec, "p" * 16) for seed in range(5)]
        store.put_many({k: random_adapter(tiny_spec, tiny_base, i) for i, k in enumerate(keys)})
        store.put_records("document", {f"doc{i}": {"text": f"Text {i}."} for i in range(5)})
        yield store


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_store_copied_to_s3_is_read_from_there(bucket, local, tmp_path, chain, capsys):
    assert run("store", "push", "--path", local.path, "--to", f"{bucket}/wiki") == 0
    assert "5 adapters copied" in capsys.readouterr().out
    assert run("store", "push", "--path", local.path, "--to", f"{bucket}/wiki") == 0
    assert "0 adapters copied" in capsys.readouterr().out
    with open_store(f"{chain}{bucket}/wiki") as store:
        assert store.readonly and store.verify() == []
        for key, adapter in local.items():
            assert_same(store.get(key), adapter)
        assert list(store.records("document")) == list(local.records("document"))
    assert run("store", "list", "--path", f"{bucket}/wiki") == 0


def test_who_dies_before_the_index_leaves_nothing_that_is_read(bucket, local, monkeypatch):
    class Dying:
        """The file system, until the index of the second shard."""

        def __init__(self, system) -> None:
            self.system = system

        def put_file(self, source, target) -> None:
            files.append(target)
            if len(files) == 6:
                raise KeyboardInterrupt
            self.system.put_file(source, target)

        def __getattr__(self, name):
            return getattr(self.system, name)

    files, sound = [], shards.filesystem
    monkeypatch.setattr(shards, "PACK_ROWS", 2)  # three shards
    monkeypatch.setattr(shards, "filesystem", lambda url: (Dying(sound(url)[0]), sound(url)[1]))
    with pytest.raises(KeyboardInterrupt):
        push(local, bucket, lambda done: None)
    assert files[-1].endswith("index.sqlite")
    with open_store(bucket) as store:
        assert len(store) == 2 and store.verify() == []
    assert push(local, bucket, lambda done: None) == 3
    with open_store(bucket) as store:
        assert list(store) == list(local) and store.verify() == []


def test_a_remote_pack_cut_short_or_damaged_is_named(bucket, local, tmp_path, monkeypatch):
    push(local, bucket, lambda done: None)
    system = fsspec.filesystem("s3")
    (pack,) = system.glob(f"{bucket}/*/packs/*")
    content = system.cat_file(pack)
    with open_store(bucket) as store:
        system.pipe_file(pack, bytes(len(content)))
        assert len(store.verify()) == 5
        with pytest.raises(ValueError, match="expected what was written"):
            store.get(next(iter(local)))
        system.rm_file(pack)
        with pytest.raises(ValueError, match="got nothing at s3://"):
            store.get(next(iter(local)))
    system.pipe_file(pack, content[:-1])
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "another machine's"))
    with pytest.raises(ValueError, match="cut short"):
        open_store(bucket)


def test_a_local_copy_that_was_cut_is_read_past(bucket, local, tmp_path, monkeypatch, caplog):
    kept = tmp_path / "kept"
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(kept)})
    push(local, bucket, lambda done: None)
    with open_store(f"simplecache::{bucket}") as store:
        assert store.verify() == [] and "local copy" not in caplog.text
        copies = list(kept.iterdir())
        for copy in copies:
            copy.write_bytes(copy.read_bytes()[:100])
        for key, adapter in local.items():
            assert_same(store.get(key), adapter)
        assert copies and store.verify() == []
    assert f"got a damaged local copy of {bucket}/" in caplog.text


def test_a_full_disk_of_this_machine_is_named():
    full = OSError(ENOSPC, os.strerror(ENOSPC), "wiki/index.sqlite")
    with (
        pytest.raises(OSError, match=r"no room to write wiki/index\.sqlite.*free some") as error,
        clear_remote_errors("s3://bucket"),
    ):
        raise full
    assert error.value.errno == ENOSPC


def test_places_that_cannot_be_reached(bucket, monkeypatch, capsys):
    def refused(url: str) -> str:
        assert run("store", "list", "--path", url) in (1, 2)
        return capsys.readouterr().err

    assert "expected index.sqlite" in refused(f"{bucket}/nothing")
    assert "got nothing at s3://nosuchbucket" in refused("s3://nosuchbucket/a")
    assert "expected a url of fsspec" in refused("nosuch://bucket/a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    assert "pip install 'prag[remote]'" in refused(f"{bucket}/nothing")


def test_a_server_that_does_not_answer_is_no_damage(bucket, local, monkeypatch, capsys):
    push(local, bucket, lambda done: None)
    store = open_store(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    for read in (lambda: store.get(next(iter(local))), store.verify):
        with pytest.raises(OSError, match="expected a place that answers") as error:
            read()
        assert error.value.errno == ETIMEDOUT
    assert run("store", "list", "--path", bucket) == 1
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    capsys.readouterr()
    assert run("store", "list", "--path", bucket) == 1
    assert "credentials" in capsys.readouterr().err
