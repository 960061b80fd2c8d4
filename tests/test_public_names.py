"""The public names of prag_core: all there, and none loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import prag_core


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, prag_core; dir(prag_core); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize("name", prag_core.__all__)
def test_a_public_name_resolves(name):
    assert getattr(prag_core, name).__name__ == name
    assert name in dir(prag_core)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="'prag_core' has no attribute 'nothing'"):
        prag_core.nothing  # noqa: B018
