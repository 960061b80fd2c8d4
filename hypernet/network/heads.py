"""Heads: a config goes in, the network that it describes comes out."""

from __future__ import annotations

from torch import nn

from hypernet.network.baseline_heads import LastTokenHead, PerceiverHead
from hypernet.network.config import NetworkConfig
from hypernet.network.ridge_head import RidgeHead


def build_head(config: NetworkConfig, inputs: int, hidden: int) -> nn.Module:
    """Return the chosen head for a base model with down_proj I -> H."""
    heads = {"ridge": RidgeHead, "perceiver": PerceiverHead, "last_token_mlp": LastTokenHead}
    return heads[config.head](config, inputs, hidden)


def needs_background(network: nn.Module) -> bool:
    """Tell whether a head has room for a background that was not set."""
    return hasattr(network, "background") and not network.background.any()
