"""Attach: equal to dense weights and PEFT; nothing stays behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import peft
import pytest
import torch

from prag_core.formats.peft_folder import to_peft
from prag_core.model.attach import attached
from tests.fixtures.decoding import IDS, logits
from tests.fixtures.tiny import random_adapter


def hooks(base) -> int:
    return sum(len(module._forward_hooks) for module in base.model.modules())


def test_attached_equals_adding_the_product_to_the_weights(tiny_base, adapters):
    for adapter in filter(None, adapters):
        dense = copy.deepcopy(tiny_base.model)
        for path, (a, b) in adapter.tensors.items():
            dense.get_submodule(path).weight.add_(adapter.spec.scale * b @ a)
        expected = dense(input_ids=IDS).logits
        torch.testing.assert_close(logits(tiny_base, IDS, adapter), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(expected, logits(tiny_base), atol=1e-2)


def test_attached_equals_peft(tiny_base, tiny_spec, tmp_path):
    adapter = random_adapter(tiny_spec, tiny_base)
    to_peft(adapter, tmp_path, "tiny")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), tmp_path)
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(logits(tiny_base, IDS, adapter), expected, rtol=0, atol=1e-5)


def test_one_adapter_a_row_equals_each_alone(tiny_base, adapters):
    for rows in ([0, 1, 2], [3, 2, 1], [1, 1, 3]):
        chosen = [adapters[i] for i in rows]
        together = logits(tiny_base, IDS, chosen)
        for row, adapter in enumerate(chosen):
            alone = logits(tiny_base, IDS[row : row + 1], adapter)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_one_adapter_serves_all_rows(tiny_base, adapters):
    shared = logits(tiny_base, IDS, adapters[0])
    torch.testing.assert_close(shared, logits(tiny_base, IDS, [adapters[0]] * 3))


def test_no_adapter_leaves_the_logits(tiny_base):
    for none in (None, [], [None, None, None]):
        assert torch.equal(logits(tiny_base, IDS, none), logits(tiny_base))


def test_bfloat16_adapter_is_scaled_in_float32(tiny_base, tiny_spec):
    adapter = random_adapter(replace(tiny_spec, dtype="bfloat16", rank=3, alpha=7), tiny_base)
    exact = replace(adapter.to(dtype=torch.float32))
    assert torch.equal(logits(tiny_base, IDS, adapter), logits(tiny_base, IDS, exact))


def test_restored_bit_equal_also_after_exceptions(tiny_base, adapters):
    before = logits(tiny_base)
    assert not torch.equal(logits(tiny_base, IDS, adapters[0]), before)
    with pytest.raises(KeyboardInterrupt), attached(tiny_base, adapters[0]):
        raise KeyboardInterrupt
    assert torch.equal(logits(tiny_base), before)
    with pytest.raises(ValueError, match="got a batch of 3 rows, expected 4: one adapter a row"):
        logits(tiny_base, IDS, adapters)
    assert torch.equal(logits(tiny_base), before)
    assert hooks(tiny_base) == 0


def test_adapter_of_another_base_is_refused(tiny_base, tiny_spec):
    foreign = random_adapter(replace(tiny_spec, base_model="other"), tiny_base)
    with pytest.raises(ValueError, match="got an adapter of base model other, expected one of"):
        logits(tiny_base, IDS, [None, foreign, None])
