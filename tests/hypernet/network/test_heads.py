"""The heads to compare with: shapes on base models of any width."""

from __future__ import annotations

import pytest
import torch

from hypernet.network.config import NetworkConfig
from hypernet.network.heads import CrossBlock


@pytest.mark.parametrize("hidden", [64, 576, 896, 1024, 1536, 2048, 2560, 3072, 4096])
def test_a_perceiver_fits_any_base_model(hidden):
    config = NetworkConfig(head="perceiver").fitted(32, hidden)
    block = CrossBlock(config.width, config.attention_heads)
    latents, context = torch.randn(2, 3, config.width), torch.randn(2, 5, config.width)
    assert block(latents, context, None).shape == latents.shape
