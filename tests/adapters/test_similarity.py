"""Similarity: sketched cosines and norms against dense updates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.similarity import (
    Sketcher,
    compare_adapters,
    inner_product,
    summarise,
    update_norms,
)
from tests.fixtures.tiny import random_adapter


def dense(adapter) -> torch.Tensor:
    """All updates of an adapter in one vector."""
    pairs = adapter.tensors.values()
    return torch.cat([(adapter.spec.scale * (b @ a)).flatten() for a, b in pairs])


@pytest.fixture
def similar(tiny_base, tiny_spec):
    """Twelve adapters; the second six are the first with noise added."""
    first = [random_adapter(tiny_spec, tiny_base, seed=i) for i in range(6)]
    noise = [random_adapter(tiny_spec, tiny_base, seed=i + 50) for i in range(6)]
    second = []
    for adapter, other in zip(first, noise, strict=True):
        tensors = {
            path: (a, b + 0.1 * other.tensors[path][1]) for path, (a, b) in adapter.tensors.items()
        }
        second.append(replace(adapter, tensors=tensors))
    return first + second


def test_inner_product_and_norms_equal_the_dense_updates(similar):
    one, other = similar[0], similar[6]
    torch.testing.assert_close(
        torch.tensor(inner_product(one, other)), dense(one) @ dense(other), rtol=1e-4, atol=1e-4
    )
    total = sum(entry["norm"] ** 2 for entry in update_norms(one)) ** 0.5
    assert total == pytest.approx(float(dense(one).norm()), rel=1e-3)


def test_adapters_of_different_modules_meet_where_both_adapt(tiny_base, tiny_spec):
    narrow = AdapterSpec(tiny_base.fingerprint, 3, 6, ("down_proj",), (1,))
    one, other = random_adapter(tiny_spec, tiny_base), random_adapter(narrow, tiny_base, seed=3)
    path = narrow.paths()[0]
    (a, b), (c, d) = one.tensors[path], other.tensors[path]
    expected = one.spec.scale * other.spec.scale * ((b @ a) * (d @ c)).sum()
    assert inner_product(one, other) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    sketcher = Sketcher(256)
    assert float(sketcher(one) @ sketcher(other)) == pytest.approx(
        float(expected), abs=0.05 * float(dense(one).norm() * dense(other).norm())
    )


def test_sketched_cosines_are_near_the_exact_ones(similar):
    sketcher = Sketcher()
    found = compare_adapters({"trained": summarise(iter(similar), sketcher)})
    vectors = torch.stack([dense(adapter) for adapter in similar])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit.mT
    mean = float(cosines[~torch.eye(12, dtype=torch.bool)].mean())
    assert found["within"]["trained"]["mean"] == pytest.approx(mean, abs=0.02)
    assert 0 < found["error"] < 0.1
    table = found["norms"]["trained"]
    assert table["layers"] == [0, 1]
    assert len(table["values"]) == len(table["modules"]) == 3


def test_paths_are_compared_document_by_document(similar):
    sketcher = Sketcher()
    paths = {"trained": similar[:6], "generated": similar[6:]}
    found = compare_adapters({name: summarise(x, sketcher) for name, x in paths.items()})
    assert found["between"]["same document"]["mean"] > 0.9
    assert abs(found["between"]["different documents"]["mean"]) < 0.3


def test_the_map_puts_like_adapters_together(tiny_base, tiny_spec):
    base = [random_adapter(tiny_spec, tiny_base, seed=i) for i in range(2)]
    noise = [random_adapter(tiny_spec, tiny_base, seed=i) for i in range(10, 18)]
    adapters = []
    for index, other in enumerate(noise):
        source = base[index % 2]
        tensors = {
            path: (a, b + 0.2 * other.tensors[path][1]) for path, (a, b) in source.tensors.items()
        }
        adapters.append(replace(source, tensors=tensors))
    part = compare_adapters({"trained": summarise(adapters, Sketcher())})
    side = [point["x"] > 0 for point in part["map"]]
    assert side in ([True, False] * 4, [False, True] * 4)
    assert 0.5 < part["variance"]["trained"] <= 1


def test_one_adapter_has_no_pairs_and_none_is_refused(similar):
    part = compare_adapters({"trained": summarise(similar[:1], Sketcher())})
    assert part["within"] == {} and part["map"][0]["x"] == 0
    with pytest.raises(ValueError, match="got no adapters"):
        summarise([], Sketcher())
