"""Reduced rank: responses on the document's own keys, against dense references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import random_adapter
from hypernet_fixtures import DOCUMENTS, parametrizer

from hypernet.encoder import pad
from prag_core.adapter import AdapterSpec
from prag_core.rank import reduce_rank
from prag_core.ridge import recover_keys

SHARED = 3


@pytest.fixture
def memory(tiny_base, tmp_path):
    """A generated adapter of one row a token."""
    return parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:1])[0]


def own(adapter, path) -> torch.Tensor:
    """The document's own update, without the shared rows."""
    a, b = adapter.tensors[path]
    return b[:, :-SHARED] @ a[:-SHARED]


def keys(adapter, index, path) -> torch.Tensor:
    """The inputs of down_proj that the adapter was solved from (R, I)."""
    a = adapter.tensors[path][0][:-SHARED]
    scale = adapter.extra["whitening"][index] / a.shape[1] ** 0.5
    rows = recover_keys(
        a / scale, adapter.extra["gram"][index].float(), adapter.extra["ridge"][index]
    )
    return rows / scale


def test_responses_are_the_nearest_of_that_rank(memory):
    reduced = reduce_rank(memory, 6 + SHARED)
    assert reduced.rank == 6 + SHARED == reduced.spec.rank and reduced.spec.scale == 1
    for index, path in enumerate(memory.spec.paths()):
        document = keys(memory, index, path)
        full, small = (own(x, path) @ document.mT for x in (memory, reduced))  # (O, R)
        singular = torch.linalg.svdvals(full)
        best = float(singular[6:].square().sum().sqrt())
        assert float((full - small).norm()) == pytest.approx(best, rel=0.02)


def test_training_sees_the_update_that_a_budget_leaves(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path)
    reduced = reduce_rank(made.parametrize(DOCUMENTS[:1])[0], 6 + SHARED)
    with torch.no_grad():
        encoding = made.encoder(*pad(made._chunks(DOCUMENTS[0]), 0, 32))
        rows, whole = made.network(encoding, rank=6 + SHARED), made.network(encoding)
        with pytest.raises(ValueError, match="more than the 3 rows"):
            made.network(encoding, rank=SHARED)
    for index, path in enumerate(reduced.spec.paths()):
        a, b = reduced.tensors[path]
        expected, seen = (b @ a).float(), rows.b[0, index].mT @ rows.a[0, index]
        far = (whole.b[0, index].mT @ whole.a[0, index] - expected).norm()
        assert (seen - expected).norm() < 0.05 * far


def test_shared_rows_stay_and_rank_falls_to_the_budget_alone(memory):
    reduced = reduce_rank(memory, 8)
    for path in memory.spec.paths():
        for before, after in zip(memory.tensors[path], reduced.tensors[path], strict=True):
            dimension = 0 if before.shape[1] == 64 else 1
            torch.testing.assert_close(
                before.narrow(dimension, before.shape[dimension] - SHARED, SHARED),
                after.narrow(dimension, after.shape[dimension] - SHARED, SHARED),
            )
    assert set(reduced.extra) == {"shared_rows"}
    assert reduce_rank(memory, memory.rank) is memory
    with pytest.raises(ValueError, match="got rank 3, expected more than the 3 rows"):
        reduce_rank(memory, SHARED)


def test_other_adapters_keep_their_largest_directions(tiny_base):
    spec = AdapterSpec(tiny_base.fingerprint, rank=6, alpha=12, layers=(0, 1))
    adapter = random_adapter(spec, tiny_base)
    reduced = reduce_rank(adapter, 4)
    assert reduced.spec.scale == adapter.spec.scale and reduced.rank == 4
    for path, (a, b) in adapter.tensors.items():
        left, values, right = torch.linalg.svd(b @ a)
        best = (left[:, :4] * values[:4]) @ right[:4]
        small_a, small_b = reduced.tensors[path]
        torch.testing.assert_close(small_b @ small_a, best, atol=1e-4, rtol=1e-3)


def test_a_long_document_keeps_the_budget(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, rank=10, max_tokens=24, overlap=4)
    long = replace(DOCUMENTS[0], text="abcdefghij" * 6)
    assert made.parametrize([long])[0].rank == 10
