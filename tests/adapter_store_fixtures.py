"""A comparison of adapters for the tests of the store."""

from __future__ import annotations

import torch


def assert_same(one, other):
    """Compare two adapters bit by bit."""
    assert one.spec == other.spec and one.metadata == other.metadata
    assert set(one.extra) == set(other.extra)
    for path, pair in one.tensors.items():
        for mine, theirs in zip(pair, other.tensors[path], strict=True):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
