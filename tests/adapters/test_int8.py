"""int8 rows: what is stored, what comes back, and where PEFT's files take other dtypes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, load_file

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import load_checkpoint, save_checkpoint
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.int8 import dequantise, quantise
from prag_core.adapters.store import AdapterStore
from prag_core.formats.view import view_store
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network


@pytest.fixture
def small(adapter):
    """The same adapter in int8, on its grid."""
    return replace(adapter, spec=replace(adapter.spec, dtype="int8")).rounded()


def test_a_row_is_off_by_half_a_step_at_most_whatever_its_size():
    torch.manual_seed(0)
    sizes = torch.logspace(-20, 3, 12)  # of rows
    tensors = {"x.lora_A.weight": torch.randn(12, 64) * sizes[:, None],
               "x.lora_B.weight": torch.randn(32, 12) * sizes, "rest": torch.ones(2)}  # fmt: skip
    parts = quantise({name: tensors[name] for name in list(tensors)[:2]})
    whole = dequantise(parts | {"rest": tensors["rest"]})
    assert parts["x.lora_A.weight"].dtype == torch.int8
    for name, axis in (("x.lora_A.weight", 1), ("x.lora_B.weight", 0)):
        step = tensors[name].abs().amax(axis, keepdim=True) / 127
        assert ((whole[name] - tensors[name]).abs() <= step * 0.501).all()
        assert (whole[name] != tensors[name]).any()
    assert torch.equal(whole["rest"], tensors["rest"]) and set(whole) == set(tensors)


def test_rows_of_zeros_stay_zeros():
    whole = dequantise(quantise({"x.lora_A.weight": torch.zeros(2, 4)}))
    assert torch.equal(whole["x.lora_A.weight"], torch.zeros(2, 4))


def test_bytes_are_a_quarter_and_come_back_alike_every_time(small):
    content = small.to_bytes()
    assert {t.dtype for name, t in load(content).items() if name.endswith("weight")} == {torch.int8}
    once = Adapter.from_bytes(content)
    assert once.to_bytes() == Adapter.from_bytes(once.to_bytes()).to_bytes()
    for path, pair in once.tensors.items():
        for tensor, other in zip(pair, small.tensors[path], strict=True):
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, other, rtol=1e-6, atol=0)
    size = sum(a.numel() + b.numel() + 8 * len(a) for a, b in small.tensors.values())
    assert small.stored_bytes == size
    assert small.nbytes == sum(t.nbytes for pair in small.tensors.values() for t in pair)


def test_other_dtypes_are_not_rounded(adapter):
    assert adapter.rounded() is adapter


def test_store_packs_it_and_a_view_has_bfloat16(small, tmp_path):
    with AdapterStore(tmp_path / "store") as store:
        store.put("one", small)
        (row,) = store.rows()
        assert row.place.startswith("packs/") and store.get("one").spec == small.spec
        assert store.verify() == []
        view_store(store, tmp_path / "view", "tiny")
    tensors = load_file(tmp_path / "view" / "one" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    for path, (a, _) in small.tensors.items():
        name = f"base_model.model.{path}.lora_A.weight"
        torch.testing.assert_close(tensors[name].float(), a, rtol=1e-2, atol=0)


def test_generated_adapters_are_as_the_store_gives_them_back(tiny_base, tmp_path):
    save_checkpoint(tmp_path, network(tiny_base), CONFIG, tiny_base)
    checkpoint = load_checkpoint(tmp_path, tiny_base)
    made = HypernetParametrizer(tiny_base, checkpoint, dtype="int8").parametrize(DOCUMENTS[:1])[0]
    whole = HypernetParametrizer(tiny_base, checkpoint).parametrize(DOCUMENTS[:1])[0]
    again = Adapter.from_bytes(made.to_bytes())
    for path, pair in made.tensors.items():
        for tensor, other, exact in zip(
            pair, again.tensors[path], whole.tensors[path], strict=True
        ):
            torch.testing.assert_close(tensor, other, rtol=1e-6, atol=0)
            torch.testing.assert_close(
                tensor, exact.float(), rtol=0.05, atol=exact.abs().max() / 99
            )
    assert made.memory is not None and made.stored_bytes < 0.7 * whole.stored_bytes
