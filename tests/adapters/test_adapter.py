"""The adapter contract: specs are checked and hash alike, bytes round-trip, damage is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from prag_core.adapters.adapter import Adapter, AdapterSpec, adapter_key, fingerprint
from prag_core.adapters.ridge_memory import RidgeMemory
from tests.fixtures.tiny import random_adapter


def spec(**changes) -> AdapterSpec:
    return AdapterSpec(**{"base_model": "b", "rank": 2, "alpha": 4, "layers": (0,), **changes})


def test_equal_specs_hash_alike_whatever_order_and_number_type():
    one = spec(modules=("up_proj", "gate_proj"), layers=(1, 0), alpha=4)
    other = spec(modules=("gate_proj", "up_proj", "up_proj"), layers=(0, 1, 1), alpha=4.0)
    assert one == other
    assert one.hash == other.hash
    assert one.paths() == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert one.scale == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": "c"},
        {"rank": 3},
        {"alpha": 5},
        {"modules": ("up_proj",)},
        {"layers": (1,)},
        {"dtype": "bfloat16"},
    ],
)
def test_every_field_changes_hash_and_store_key(change):
    assert spec(**change).hash != spec().hash
    assert adapter_key("d", spec(**change), "p") != adapter_key("d", spec(), "p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "got rank 0, expected a rank of 1 or more"),
        ({"modules": ("q_proj",)}, r"got modules \['q_proj'\], expected a choice of"),
        ({"modules": ()}, r"got modules \[\]"),
        ({"layers": ()}, r"got layers \[\], expected at least one"),
        ({"layers": (-1, 0)}, r"got layers \[-1, 0\]"),
        ({"dtype": "int4"}, "got dtype 'int4', expected one of"),
    ],
)
def test_bad_spec_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spec(**change)


def test_fingerprint_ignores_key_order_only():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert len(fingerprint("x")) == 16


def test_other_base_is_refused():
    spec().require_base("b")
    with pytest.raises(ValueError, match="got an adapter of base model b, expected one of c"):
        spec().require_base("c")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bytes_round_trip(tiny_base, tiny_spec, dtype):
    made = random_adapter(replace(tiny_spec, dtype=dtype), tiny_base)
    memory = RidgeMemory(torch.eye(1).expand(6, 1, 1), torch.ones(6, 64), torch.ones(6))
    made = replace(made, memory=memory, shared_rows=1, metadata={"title": "Å \n ü"})
    read = Adapter.from_bytes(made.to_bytes())
    assert read.spec == made.spec
    assert read.metadata == made.metadata
    assert torch.equal(read.memory.gram, memory.gram) and read.memory.beside is None
    assert read.shared_rows == 1
    for path, pair in made.tensors.items():
        for ours, theirs in zip(read.tensors[path], pair, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    assert read.to_bytes() == made.to_bytes()
    pairs = sum(tensor.nbytes for pair in made.tensors.values() for tensor in pair)
    assert read.nbytes == made.nbytes == pairs + memory.nbytes == pairs + 4 * 6 * 66


def test_every_truncation_is_refused(tiny_base, tiny_spec):
    whole = random_adapter(tiny_spec, tiny_base).to_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match=f"got {length} bytes that are not an adapter"):
            Adapter.from_bytes(whole[:length])


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"adapter": "[]"},
        {"adapter": "not json"},
        {"adapter": json.dumps({"spec": {}, "metadata": {}})},
        {"adapter": json.dumps({"spec": {"rank": 0, "modules": [], "layers": []}, "metadata": {}})},
    ],
)
def test_foreign_safetensors_are_refused(header):
    with pytest.raises(ValueError, match="bytes that are not an adapter"):
        Adapter.from_bytes(save({"weight": torch.ones(2)}, metadata=header))


def test_missing_metadata_and_missing_tensor_are_refused(tiny_base, tiny_spec):
    whole = random_adapter(tiny_spec, tiny_base).to_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])["__metadata__"]
    tensors = load(whole)
    with pytest.raises(ValueError, match="not an adapter"):
        Adapter.from_bytes(save(tensors))
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    with pytest.raises(ValueError, match=r"got no tensor .*layers\.1\.mlp\.up_proj\.lora_B"):
        Adapter.from_bytes(save(tensors, metadata=header))


def test_tensors_must_fit_the_spec(tiny_base, tiny_spec):
    made = random_adapter(tiny_spec, tiny_base)
    with pytest.raises(ValueError, match="got 6 adapted modules, expected 3"):
        replace(made, spec=replace(tiny_spec, layers=(1,)))
    path = tiny_spec.paths()[0]
    a, b = made.tensors[path]
    with pytest.raises(ValueError, match=r"expected A \(R, I\) and B \(O, R\)"):
        replace(made, tensors={**made.tensors, path: (b, a)})
    memory = RidgeMemory(torch.eye(2).expand(6, 2, 2), torch.ones(6, 64), torch.ones(6))
    for change in ({"shared_rows": 3}, {"shared_rows": -1}, {"memory": memory, "shared_rows": 1}):
        with pytest.raises(ValueError, match=r"beside -?\d shared ones, and a memory of"):
            replace(made, **change)


def test_to_casts_and_keeps_the_rest(tiny_base, tiny_spec):
    memory = RidgeMemory(torch.eye(2).expand(6, 2, 2), torch.ones(6, 64), torch.ones(6))
    made = replace(random_adapter(tiny_spec, tiny_base), memory=memory)
    cast = made.to(dtype=torch.bfloat16)
    assert {t.dtype for pair in cast.tensors.values() for t in pair} == {torch.bfloat16}
    assert cast.memory.gram.dtype == torch.float32
    assert cast.metadata == made.metadata


def test_rank_is_what_the_tensors_have(tiny_base, tiny_spec):
    assert random_adapter(tiny_spec, tiny_base, rank=5).rank == 5
