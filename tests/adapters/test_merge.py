"""Merge by concatenation: exactly the weighted sum of the adapters' dense updates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.adapters.merge import mean_adapter, merge, merge_weights
from prag_core.adapters.ridge_memory import RidgeMemory
from prag_core.model.attach import attached
from tests.fixtures.tiny import random_adapter


def dense(adapter, path) -> torch.Tensor:
    a, b = adapter.tensors[path]
    return adapter.spec.scale * b.double() @ a.double()


@pytest.fixture
def three(tiny_base, tiny_spec):
    """Ranks 2, 5 and 1; scales 16, 2 and 3."""
    shapes = [(2, 32), (5, 10), (1, 3)]
    return [
        random_adapter(replace(tiny_spec, rank=rank, alpha=alpha), tiny_base, seed=seed)
        for seed, (rank, alpha) in enumerate(shapes)
    ]


@pytest.mark.parametrize("weights", [None, [1, 1, 1], [0.2, -1.5, 3.0], [0, 0, 1]])
def test_equals_the_sum_of_dense_updates(three, weights):
    merged = merge(three, weights)
    for path in three[0].spec.paths():
        factors = weights or [1, 1, 1]
        expected = sum(w * dense(adapter, path) for w, adapter in zip(factors, three, strict=True))
        torch.testing.assert_close(dense(merged, path), expected, rtol=1e-5, atol=1e-6)
    assert merged.rank == merged.spec.rank == 8
    assert merged.spec.scale == 1
    assert merged.metadata["document_id"] == "doc0+doc1+doc2"


def test_one_adapter_stays_the_same_update(three):
    merged = merge(three[:1])
    for path in three[0].spec.paths():
        torch.testing.assert_close(dense(merged, path), dense(three[0], path), rtol=1e-6, atol=1e-7)


def test_merging_in_steps_equals_merging_at_once(three):
    at_once, in_steps = merge(three), merge([merge(three[:2]), three[2]])
    for path in three[0].spec.paths():
        torch.testing.assert_close(dense(in_steps, path), dense(at_once, path))


def test_merged_adapter_acts_as_the_sum_in_the_model(tiny_base, three):
    ids = torch.randint(5, 250, (1, 7))
    with torch.no_grad(), attached(tiny_base, merge(three, [1, 0.5, 2])):
        together = tiny_base.model(input_ids=ids).logits
    delta = {
        path: sum(w * dense(x, path) for w, x in zip([1, 0.5, 2], three, strict=True)).float()
        for path in three[0].spec.paths()
    }
    handles = [
        tiny_base.model.get_submodule(path).register_forward_hook(
            lambda _, inputs, output, d=d: output + inputs[0] @ d.T
        )
        for path, d in delta.items()
    ]
    with torch.no_grad():
        expected = tiny_base.model(input_ids=ids).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_memories", [False, True])
def test_inputs_are_not_changed(three, tiny_base, tiny_spec, with_memories):
    adapters = three
    if with_memories:
        spec = replace(tiny_spec, modules=("down_proj",), rank=4, alpha=8)
        adapters = [random_adapter(spec, tiny_base, seed) for seed in range(3)]
        for number, plain in enumerate(adapters):
            keys = torch.stack([a for a, _ in plain.tensors.values()])  # (L, R, I)
            memory = RidgeMemory.from_keys(keys, torch.ones(2, 64), torch.tensor([0.1, 0.1]))
            adapters[number] = replace(plain, memory=memory)
    before = [adapter.to_bytes() for adapter in adapters]
    merge(adapters, [2, 3, 4])
    merge([adapters[1]] * 2)  # of one factor: multiplied in place
    for weights in (None, [0.5]):
        merge(adapters[:1], weights)
    mean_adapter(adapters)
    assert [adapter.to_bytes() for adapter in adapters] == before


@pytest.mark.parametrize(
    ("weighting", "scores", "expected"),
    [
        ("ones", [3.0, 1.0], [1, 1]),
        ("mean", [3.0, 1.0, 0.0, 0.0], [0.25] * 4),
        ("mean", [], []),
        ("score", [3.0, 1.0], [1.5, 0.5]),
        ("score", [3.0, -1.0], [2, 0]),
        ("score", [0.0, -2.0], [1, 1]),  # BM25 over one or two documents
        ("score", [5.0], [1]),
        ("score", [], []),  # a question that nothing matches
        ("relative", [4.0, 1.0, -1.0], [1, 0.25, 0]),
        ("relative", [0.0, -2.0], [1, 1]),
        ("relative", [], []),
    ],
)
def test_weightings(weighting, scores, expected):
    assert merge_weights(weighting, scores) == expected


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match=r"got merge weighting 'sum', expected one of \['ones'"):
        merge_weights("sum", [1.0])


def test_refusals(tiny_base, tiny_spec, three):
    with pytest.raises(ValueError, match="got no adapters, expected at least one"):
        merge([])
    with pytest.raises(ValueError, match="got 2 weights, expected 3, one an adapter"):
        merge(three, [1, 1])
    with pytest.raises(ValueError, match="got merge method 'linear', expected one of"):
        merge(three, method="linear")
    other = random_adapter(replace(tiny_spec, base_model="other"), tiny_base)
    with pytest.raises(ValueError, match="got an adapter of base model other"):
        merge([*three, other])
    for change in ({"modules": ("down_proj",)}, {"layers": (0,)}):
        narrow = random_adapter(replace(tiny_spec, **change), tiny_base)
        with pytest.raises(ValueError, match=r"got an adapter of modules .* in layers"):
            merge([*three, narrow])


def test_mean_adapter_is_the_mean_of_the_updates(three):
    mean = mean_adapter(iter(three))
    for path, (a, b) in mean.tensors.items():
        updates = [x.spec.scale * (x.tensors[path][1] @ x.tensors[path][0]) for x in three]
        torch.testing.assert_close(mean.spec.scale * (b @ a), sum(updates) / 3)
    with pytest.raises(ValueError, match="got no adapters"):
        mean_adapter([])
    for change in ({"modules": ("down_proj",)}, {"layers": (0,)}):
        spec = replace(three[0].spec, **change)
        tensors = {path: three[0].tensors[path] for path in spec.paths()}
        narrow = replace(three[0], spec=spec, tensors=tensors)
        for adapters in ([narrow, three[0]], [three[0], narrow]):
            with pytest.raises(ValueError, match=r"got an adapter of modules .* in layers"):
                mean_adapter(adapters)


def test_the_mean_is_asked_in_the_prompt_of_the_adapters(three):
    asked = [replace(x, metadata=x.metadata | {"prompt": "turns-123456"}) for x in three]
    assert mean_adapter(asked).metadata == {"prompt": "turns-123456", "document_id": "mean"} | {
        name: value for name, value in three[0].metadata.items() if name == "path"
    }


def test_a_merge_keeps_what_all_its_adapters_say(three):
    said = [replace(a, metadata=a.metadata | {"prompt": "p", "place": str(n)})
            for n, a in enumerate(three)]  # fmt: skip
    metadata = merge(said).metadata
    assert metadata["prompt"] == "p" and "place" not in metadata
    assert metadata["document_id"] == "+".join(a.metadata.get("document_id", "") for a in three)


@pytest.fixture
def sharing(tiny_base, tiny_spec):
    """Three adapters of 3 own rows each, the last 2 rows shared; scale 16."""
    adapters = [random_adapter(tiny_spec, tiny_base, seed, rank=5) for seed in range(3)]
    common = adapters[0].tensors
    same = [
        {
            path: (torch.cat([a[:3], common[path][0][3:]]),
                   torch.cat([b[:, :3], common[path][1][:, 3:]], 1))
            for path, (a, b) in adapter.tensors.items()
        }
        for adapter in adapters
    ]  # fmt: skip
    pairs = zip(adapters, same, strict=True)
    return [replace(adapter, tensors=tensors, shared_rows=2) for adapter, tensors in pairs]


@pytest.mark.parametrize("weights", [None, [0.5, -1.5, 3.0]])
def test_shared_rows_count_once_in_a_sum(sharing, weights):
    merged = merge(sharing, weights)
    parts = merge([sharing[0].part("shared"), *(x.part("own") for x in sharing)],
                  [1, *(weights or [1, 1, 1])])  # fmt: skip
    for path in sharing[0].spec.paths():
        expected = 0
        for weight, adapter in zip(weights or [1, 1, 1], sharing, strict=True):
            a, b = adapter.tensors[path]
            expected = expected + weight * 16 * b[:, :3].double() @ a[:3].double()
        a, b = sharing[0].tensors[path]
        expected = expected + 16 * b[:, 3:].double() @ a[3:].double()
        for ours in (merged, parts):  # the latter as other programs sum
            torch.testing.assert_close(dense(ours, path), expected, rtol=1e-5, atol=1e-5)
    assert (merged.shared_rows, merged.rank) == (2, 3 * 3 + 2)
    whole = merge(sharing, weights, method="concatenate")
    assert (dense(whole, path) - expected).abs().max() > 1e-2  # the shared ones three times


@pytest.mark.parametrize("weight", [1.0, 1 / 16, 0.5])
def test_shared_rows_weigh_one_beside_a_single_adapter_of_any_weight(sharing, weight):
    merged = merge(sharing[:1], [weight])
    for path in sharing[0].spec.paths():
        a, b = sharing[0].tensors[path]
        expected = 16 * (weight * b[:, :3] @ a[:3] + b[:, 3:] @ a[3:])
        torch.testing.assert_close(dense(merged, path), expected.double(), rtol=1e-4, atol=1e-4)


def test_adapters_that_share_other_rows_are_refused(sharing, tiny_base, tiny_spec):
    other = replace(random_adapter(tiny_spec, tiny_base, 7, rank=5), shared_rows=2)
    with pytest.raises(ValueError, match=r"got adapters whose shared rows differ.*training\.init"):
        merge([sharing[0], other])
    bare = random_adapter(tiny_spec, tiny_base, 8)
    with pytest.raises(ValueError, match="without shared rows, expected some to take its own"):
        bare.part("own")
    assert merge([sharing[0], bare]).shared_rows == 2


def test_files_say_that_shared_rows_count_once(sharing):
    assert "The last 2 rows" in sharing[0].note["shared_rows"]
    assert "shared_rows" not in sharing[0].part("own").note
    again = type(sharing[0]).from_bytes(sharing[0].to_bytes())
    assert again.shared_rows == 2
