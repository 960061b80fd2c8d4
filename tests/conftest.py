"""Fixtures of all tests: a tiny base model, adapters of it, a store."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.store import AdapterStore
from prag_core.model.base_model import BaseModel
from prag_core.model.checkpoints import SUPPORTED
from tests.fixtures.tiny import family_model, random_adapter, tiny_model

torch.set_num_threads(1)  # waiting for a second thread takes longer than these small products
os.environ["OMP_NUM_THREADS"] = "1"  # the same for processes that a test starts


@pytest.fixture(scope="session")
def tiny_base() -> BaseModel:
    """The tiny model; tests must not change its weights."""
    return tiny_model()


@pytest.fixture
def tiny_spec(tiny_base) -> AdapterSpec:
    """Rank 2, alpha 32, all FFN modules and layers of the tiny model."""
    return AdapterSpec(tiny_base.fingerprint, rank=2, alpha=32, layers=(0, 1))


@pytest.fixture(scope="session", params=SUPPORTED)
def family_base(request) -> BaseModel:
    """One tiny model of each supported family; tests must not change its weights."""
    return family_model(request.param)


@pytest.fixture
def adapter(tiny_base, tiny_spec):
    """Random, of rank 2."""
    return random_adapter(tiny_spec, tiny_base)


@pytest.fixture
def store(tmp_path):
    """A new store."""
    with AdapterStore(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def adapters(tiny_base, tiny_spec):
    """Rank 2, none, rank 5, and down_proj of layer 1 only."""
    narrow = AdapterSpec(tiny_base.fingerprint, 3, 6, ("down_proj",), (1,))
    return [
        random_adapter(tiny_spec, tiny_base, seed=1),
        None,
        random_adapter(replace(tiny_spec, rank=5, alpha=10), tiny_base, seed=2),
        random_adapter(narrow, tiny_base, seed=3),
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The benchmark's tiny model and hypernetwork, as folders."""
    from tests.fixtures.benchmarks import save_models  # imports this module

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def settings(model, tmp_path):
    """A whole benchmark's settings."""
    from tests.fixtures.benchmarks import whole_benchmark

    return whole_benchmark(model, tmp_path)


@pytest.fixture
def counted(monkeypatch):
    """Models and sets loaded and questions asked by the benchmark so far."""
    from tests.fixtures.benchmarks import count_calls

    return count_calls(monkeypatch)
