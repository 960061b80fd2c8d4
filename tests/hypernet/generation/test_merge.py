"""The merge that solves again, against the network's own joint solve and a dense reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypernet.network.encoder import Encoder
from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge, weigh_rows
from prag_core.corpus.documents import Document
from prag_core.model.padding import pad
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network, parametrizer
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def adapters(tiny_base, tmp_path):
    return parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS)


def update(adapter, path):
    a, b = adapter.tensors[path]
    return (b.float() @ a.float()) * adapter.spec.scale


@pytest.mark.parametrize("count", [2, 6])  # 6 documents have more rows than outputs
def test_merge_equals_the_networks_joint_solve(tiny_base, adapters, count):
    head, encoder = network(tiny_base), Encoder(tiny_base, CONFIG.layers)
    texts = [f"{d.title}: {d.text}" for d in DOCUMENTS[:count]]
    ids = [encoder.frame(tiny_base.tokenizer(text).input_ids) for text in texts]
    rows = head(encoder(*pad(ids, 0)), count)
    merged = merge(adapters[:count])
    for index, path in enumerate(merged.spec.paths()):
        expected = (rows.b[0, index].mT @ rows.a[0, index]).detach()
        error = (update(merged, path) - expected).norm() / expected.norm()
        assert error < 0.02  # the Gram matrices are stored in half precision


def test_merge_equals_a_dense_float64_reference(tiny_base, adapters):
    merged, weights = merge(adapters[:2], [1.0, 0.5]), (1.0, 0.5)
    path = merged.spec.paths()[0]
    keys, values = [], []
    scale = adapters[0].memory.whitening[0].double() / 64**0.5
    strength = adapters[0].memory.ridge[0].double()
    for adapter, weight in zip(adapters[:2], weights, strict=True):
        a, b = (tensor.double() for tensor in adapter.tensors[path])
        gram = adapter.memory.gram[0].double()
        keys.append((gram + strength * torch.eye(len(gram))) @ (a[:-3] / scale) * weight)
        values.append(b[:, :-3] * weight)
    stacked = torch.cat(keys)
    system = stacked @ stacked.mT + strength * torch.eye(len(stacked), dtype=torch.float64)
    expected = torch.cat(values, 1) @ torch.linalg.solve(system, stacked) * scale
    a, b = adapters[0].tensors[path]
    expected += b[:, -3:].double() @ a[-3:].double()  # shared rows once
    torch.testing.assert_close(update(merged, path).double(), expected, atol=1e-3, rtol=1e-2)


def test_weighed_rows_equal_a_dense_float64_reference(adapters):
    memory = adapters[0].memory
    weights = torch.linspace(0.1, 1, memory.gram.shape[1])
    weighed, path = weigh_rows(adapters[0], weights), adapters[0].spec.paths()[0]
    a, b = (tensor.double() for tensor in adapters[0].tensors[path])
    gram, strength = memory.gram[0].double(), memory.ridge[0].double()
    scale = memory.whitening[0].double() / 64**0.5
    keys = (gram + strength * torch.eye(len(gram))) @ (a[:-3] / scale) * weights[:, None]
    system = keys @ keys.mT + strength * torch.eye(len(keys), dtype=torch.float64)
    expected = (b[:, :-3] * weights) @ torch.linalg.solve(system, keys) * scale
    expected += b[:, -3:] @ a[-3:]  # shared rows as they are
    torch.testing.assert_close(update(weighed, path).double(), expected, atol=1e-3, rtol=1e-2)
    # It merges as any other: the keys that are solved again are the weighed ones.
    torch.testing.assert_close(weighed.memory.keys(weighed.split(path)[0][0], 0).double(), keys,
                               atol=1e-3, rtol=1e-2)  # fmt: skip


def test_rows_weigh_as_documents_do(adapters):
    """Weighing all rows of one document is weighing it in a merge."""
    first, second = adapters[:2]
    half = weigh_rows(second, torch.full((second.memory.gram.shape[1],), 0.5))
    merged, expected = merge([first, half]), merge([first, second], [1.0, 0.5])
    for path in first.spec.paths():
        torch.testing.assert_close(
            update(merged, path), update(expected, path), atol=1e-3, rtol=1e-2
        )


def test_rows_without_memory_or_of_another_number_are_refused(adapters):
    with pytest.raises(ValueError, match=r"weights \(2,\) and a memory of"):
        weigh_rows(adapters[0], torch.ones(2))
    with pytest.raises(ValueError, match="a memory of 0 rows"):
        weigh_rows(reduce_rank(adapters[0], 8), torch.ones(2))


@pytest.mark.parametrize("count", [2, 6])
def test_a_document_of_no_weight_claims_nothing(adapters, count):
    weights = [1.0] + [0.0] * (count - 1)
    alone, merged = adapters[0], merge(adapters[:count], weights)
    for path in alone.spec.paths():
        torch.testing.assert_close(update(merged, path), update(alone, path), atol=1e-3, rtol=2e-2)


def test_a_small_weight_gives_way_where_documents_conflict(adapters):
    path = adapters[0].spec.paths()[0]
    first, second = adapters[:2]
    near = [update(merge([first, second], w), path) for w in ([1.0, 1.0], [1.0, 0.3])]
    distance = [(x - update(first, path)).norm() for x in near]
    assert distance[1] < 0.7 * distance[0]


def test_few_rows_can_be_merged_again(tiny_base, tmp_path):
    short = [Document(text) for text in ("a red fox", "an oak", "jam")]
    adapters = parametrizer(tiny_base, tmp_path).parametrize(short)
    pair = merge(adapters[:2])
    assert pair.memory is not None and pair.shared_rows == 3
    again, at_once = merge([pair, adapters[2]]), merge(adapters)
    for path in pair.spec.paths():
        difference = update(again, path) - update(at_once, path)
        assert difference.norm() < 0.03 * update(at_once, path).norm()


def test_memories_need_no_shared_rows(adapters):
    pair = adapters[:2]
    bare = [replace(x, tensors={p: x.split(p)[0] for p in x.tensors}, shared_rows=0) for x in pair]
    merged, without = merge(pair), merge(bare)
    for path in merged.spec.paths():
        (own_a, own_b), _ = merged.split(path)
        assert torch.equal(without.tensors[path][0], own_a)
        assert torch.equal(without.tensors[path][1], own_b)


def test_concatenate_is_the_plain_sum(adapters):
    merged = merge(adapters[:2], method="concatenate")
    for path in merged.spec.paths():
        expected = update(adapters[0], path) + update(adapters[1], path)
        torch.testing.assert_close(update(merged, path), expected, atol=1e-4, rtol=1e-4)


def test_trained_adapters_are_summed_exactly(tiny_base, adapters):
    spec = replace(adapters[0].spec, rank=2, alpha=4)
    trained = [random_adapter(spec, tiny_base, seed) for seed in (0, 1)]
    merged = merge(trained)
    for path in merged.spec.paths():
        expected = update(trained[0], path) + update(trained[1], path)
        torch.testing.assert_close(update(merged, path), expected, atol=1e-5, rtol=1e-5)


def test_adapters_of_two_networks_are_refused(adapters):
    other = replace(adapters[1].memory, ridge=torch.tensor([0.5, 0.5]))
    foreign = replace(adapters[1], memory=other)
    with pytest.raises(ValueError, match="got adapters that differ in ridge"):
        merge([adapters[0], foreign])
    with pytest.raises(ValueError, match="got merge method 'sum'"):
        merge(adapters, method="sum")
