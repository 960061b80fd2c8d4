"""Reader: what a token means within its document; the trained transformer of a head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoding


class Block(nn.Module):
    """Pre-norm bidirectional transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block for inputs (N, T, D)."""
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # Every block begins as the identity: a deep reader learns as fast as a flat one.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map x (N, T, D) to the same shape; bias (N, 1, 1, T) is -1e9 at padding."""
        parts = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (N, heads, T, D / heads) each
        # Written out: on a CPU torch's fused attention is many times slower backwards with
        # padding masked.
        scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias  # (N, heads, T, T)
        mixed = (torch.softmax(scores, -1).to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (N, T, D)
        x = x + self.out(mixed)
        return x + self.down(functional.gelu(self.up(self.ffn_norm(x))))


class Reader(nn.Module):
    """Small transformer over a document's tokens: what a token means within its document."""

    def __init__(self, config: NetworkConfig, hidden: int) -> None:
        """Build it for a base model of the given hidden size H."""
        super().__init__()
        self.project = nn.Linear(4 * hidden, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.attention_heads) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, encoding: Encoding) -> Tensor:
        """Return u (N, T, D)."""
        # Each normalised by itself: embeddings are smaller than hidden states by orders.
        middle = encoding.hidden[:, encoding.hidden.shape[1] // 2]  # (N, T, H)
        last = encoding.hidden[:, -1]
        parts = [middle, last, encoding.embeddings, encoding.following]
        x = self.project(torch.cat([normalise(part) for part in parts], -1))  # (N, T, D)
        x = x + positions(x.shape[1], x.shape[2], x.device)
        bias = torch.zeros(encoding.mask.shape, device=x.device)
        bias = bias.masked_fill(~encoding.mask, -1e9)[:, None, None]  # (N, 1, 1, T)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


def normalise(x: Tensor) -> Tensor:
    """Layer norm without weights, in float32."""
    return functional.layer_norm(x.float(), x.shape[-1:])


def positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions (Vaswani et al., 2017, section 3.5), (length, width)."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rate  # (T, D / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)
