"""`prag parametrize --runner ray` on a real cluster of this machine; its errors without one."""

from __future__ import annotations

import json
import os
import sys

import pytest

from prag_core.adapters.shards import open_store
from prag_core.adapters.store import AdapterStore
from tests.fixtures.command_line import run
from tests.fixtures.stores import assert_same


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))


def test_a_missing_ray_is_named(corpus, options, tmp_path, capsys, monkeypatch):
    command = ("parametrize", corpus, "--store", tmp_path / "s", *options, "--runner", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(*command) == 2
    assert "pip install 'prag[ray]'" in capsys.readouterr().err
    assert run(*command, "--ray.actors", 0) == 2


ray = pytest.importorskip("ray", reason="needs Ray: pip install 'prag[ray]'")


@pytest.fixture(scope="module")
def cluster():
    """A real cluster on this machine: workers import this checkout."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    yield
    ray.shutdown()


def test_ray_gives_the_adapters_of_a_serial_run(cluster, corpus, options, tmp_path, capsys):
    options = [*options, "--augmentation.strategy=span", "--training.epochs=1",
               "--training.documents_per_batch=2"]  # fmt: skip
    serial, place = tmp_path / "serial", tmp_path / "place"
    assert run("parametrize", corpus, "--store", serial, *options) == 0
    command = ("parametrize", corpus, "--store", place, *options, "--block", 2)
    assert run(*command, "--runner", "ray") == 0
    assert "holds 6 adapters" in capsys.readouterr().out
    with AdapterStore(serial) as one, open_store(place) as shards:
        assert list(shards) == list(one)
        for key, adapter in one.items():
            assert_same(shards.get(key), adapter)
    assert len(list(place.glob("*/packs/*"))) == 3
    assert json.loads((place / "config.json").read_text())["dtype"] == "float32"
    assert run(*command) == 0  # what is there is not made again, whoever asks
    assert run(*command, "--runner", "ray", "--ray.actors", 2) == 0  # nothing to do: no cluster
    (next(place.glob("*/store.json")).parent).rename(tmp_path / "lost")
    assert run(*command, "--runner", "ray", "--ray.actors", 2) == 2
    assert "expected one CPU to be left" in capsys.readouterr().err
