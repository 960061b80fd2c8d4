"""`prag parametrize --runner ray` on a real cluster of this machine; its errors without one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil
import pytest

from prag_core.adapters.shards import open_store
from prag_core.adapters.store import AdapterStore
from tests.fixtures.command_line import run
from tests.fixtures.stores import assert_same

DOCUMENTS = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))


def test_a_missing_ray_is_named(corpus, options, tmp_path, capsys, monkeypatch):
    command = ("parametrize", corpus, "--store", tmp_path / "s", *options, "--runner", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(*command) == 2
    assert "pip install 'prag[ray]'" in capsys.readouterr().err
    assert run(*command, "--ray.actors", 0) == 2


@pytest.mark.skipif(not os.environ.get("PRAG_TEST_SCALE"), reason="`make test-scale` starts Ray")
def test_ray_gives_the_adapters_of_a_serial_run_though_actor_and_driver_are_killed(
    options, tmp_path, monkeypatch
):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"text": "Ada lives in house {i}."}}\n' for i in range(DOCUMENTS)))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token is written to the home folder
    options = [*options, "--augmentation.file=", "--augmentation.strategy=span",
               "--training.max_steps=300", "--training.documents_per_batch=1"]  # fmt: skip
    serial, place = tmp_path / "serial", tmp_path / "place"
    assert run("parametrize", corpus, "--store", serial, *options) == 0
    command = ["parametrize", str(corpus), "--store", str(place), *options, "--block", "1"]
    command = [sys.executable, "-m", "prag_core.cli", *command, "--runner", "ray"]

    def shards() -> int:
        return len(list(place.glob("*/index.sqlite")))

    def wait_for(count: int) -> None:
        end = time.monotonic() + 300
        while shards() < count:
            assert driver.poll() is None and time.monotonic() < end, "no shard came"
            time.sleep(0.02)

    driver = subprocess.Popen(command)
    try:
        wait_for(1)
        (actor,) = actors(driver)
        actor.kill()
        wait_for(shards() + 2)  # one may have been written in between: another actor goes on
        assert actor not in actors(driver)
    finally:  # the driver's cluster goes with it, but not always at once
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with AdapterStore(serial) as one, open_store(place) as there:
        assert 3 <= len(there) < len(one) and there.verify() == []
    assert subprocess.run(command).returncode == 0
    with AdapterStore(serial) as one, open_store(place) as there:
        assert list(there) == list(one) and shards() == len(one) == DOCUMENTS
        for key, adapter in one.items():
            assert_same(there.get(key), adapter)
    assert run(*command[3:], "--ray.actors", 9) == 0  # nothing is missing: no cluster starts


def actors(driver: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes of a driver's cluster that make adapters."""
    family = psutil.Process(driver.pid).children(recursive=True)
    return [p for p in family if any("MapWorker(MapBatches(_Actor))" in w for w in p.cmdline())]
