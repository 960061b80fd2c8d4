"""Attention while training: eager for short rows on a CPU, restored in any case."""

from __future__ import annotations

import pytest

from prag_core.training.stacked_lora import EAGER_TOKENS, short_attention


@pytest.mark.parametrize(("length", "eager"), [(EAGER_TOKENS, True), (EAGER_TOKENS + 1, False)])
def test_short_rows_train_with_eager_attention(tiny_base, length, eager):
    config = tiny_base.model.config
    before = config._attn_implementation
    assert before != "eager"
    with pytest.raises(RuntimeError, match="stop"), short_attention(tiny_base, length):
        assert (config._attn_implementation == "eager") is eager
        raise RuntimeError("stop")
    assert config._attn_implementation == before
