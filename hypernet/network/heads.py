"""Heads: a config goes in, the network that it describes comes out.

Beside `RidgeHead` the field's two, behind its interface: learned A and B of a few rows. Both merge
by concatenation: their rows hold nothing to solve again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoding
from hypernet.network.reader import Reader, normalise
from hypernet.network.ridge_head import RidgeHead
from hypernet.network.rows import Exported, Rows, stack


class RowWriter(nn.Module):
    """Linear maps: row codes (N, L, R, D) -> A (N, L, R, I) and B (N, L, R, H), at first 0."""

    def __init__(self, layers: int, width: int, inputs: int, hidden: int) -> None:
        """Build the maps of L layers."""
        super().__init__()
        self.to_a = nn.Parameter(torch.randn(layers, width, inputs) / math.sqrt(width))
        self.to_b = nn.Parameter(torch.zeros(layers, width, hidden))
        self.log_scale = nn.Parameter(torch.zeros(layers))
        self.register_buffer("whitening", torch.ones(layers, inputs))

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Write the rows; A is scaled so that A x is about 1, B by down_proj's output."""
        a = torch.einsum("nlrd,ldi->nlri", codes, self.to_a)
        b = torch.einsum("nlrd,ldh->nlrh", codes, self.to_b)
        scale = self.whitening[:, None] / self.whitening.shape[1] ** 0.5
        return a * scale, b * self.log_scale.exp()[:, None, None]


class PerceiverHead(nn.Module):
    """Latents attend to the document, linear heads write rows (Doc-to-LoRA, arXiv 2602.15902)."""

    shared_count = 0

    def __init__(self, config: NetworkConfig, inputs: int, hidden: int) -> None:
        """Build it for a base model with down_proj I -> H."""
        super().__init__()
        layers, width = len(config.layers), config.width
        self.reader = Reader(config, hidden)
        self.latents = nn.Parameter(torch.randn(layers * config.rows, width) / math.sqrt(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.writer = RowWriter(layers, width, inputs, hidden)

    def codes(self, encoding: Encoding) -> Tensor:
        """Return row codes (N, L, R, D)."""
        u = self.reader(encoding)  # (N, T, D)
        scores = self.latents @ self.key(u).mT / math.sqrt(u.shape[-1])  # (N, L R, T)
        scores = scores.float().masked_fill(~encoding.mask[:, None], -1e9)
        # A latent that attends to nothing in particular stays itself.
        z = self.latents + torch.softmax(scores, -1).to(u.dtype) @ self.value(u)  # (N, L R, D)
        z = normalise(z + self.mix(z))
        return z.unflatten(1, (self.writer.to_a.shape[0], -1))

    def calibrate(self, whitening: Tensor, output_scale: Tensor) -> None:
        """Set what the frozen model determines (see `Encoder.statistics`)."""
        self.writer.whitening.copy_(whitening)
        self.writer.log_scale.data.copy_((0.3 * output_scale).log())

    def fast_parameters(self) -> list[nn.Parameter]:
        """Scalars per layer, which want a larger learning rate."""
        return [self.writer.log_scale]

    def forward(self, encoding: Encoding, group: int = 1, rank: int = 0) -> Rows:
        """Return rows of groups of `group` documents; R = group * rows, whatever `rank`."""
        a, b = self.writer(self.codes(encoding))
        return Rows(stack(a, group), stack(b, group))

    def export(self, encoding: Encoding) -> Iterator[Exported]:
        """Yield every document's rows; there is nothing that a merge could solve again."""
        a, b = self.writer(self.codes(encoding))
        yield from ((x.float(), y.float(), None) for x, y in zip(a, b, strict=True))


class LastTokenHead(PerceiverHead):
    """An MLP on the last token's hidden state writes all rows (DyPRAG, arXiv 2503.23895)."""

    def __init__(self, config: NetworkConfig, inputs: int, hidden: int) -> None:
        """Build it for a base model with down_proj I -> H."""
        nn.Module.__init__(self)
        layers, width = len(config.layers), config.width
        self.rows = config.rows
        self.hidden = nn.Linear(hidden, width)
        self.spread = nn.Linear(width, layers * config.rows * width)
        self.writer = RowWriter(layers, width, inputs, hidden)

    def codes(self, encoding: Encoding) -> Tensor:
        """Return row codes (N, L, R, D) from the last token that is a row."""
        position = torch.arange(encoding.mask.shape[1], device=encoding.mask.device)
        last = (position * encoding.mask).amax(1)  # (N,)
        state = encoding.hidden[torch.arange(len(last), device=last.device), 1, last]  # (N, H)
        z = self.spread(functional.relu(self.hidden(normalise(state))))
        return normalise(z.unflatten(1, (self.writer.to_a.shape[0], self.rows, -1)))


def build_head(config: NetworkConfig, inputs: int, hidden: int) -> nn.Module:
    """Return the chosen head for a base model with down_proj I -> H."""
    heads = {"ridge": RidgeHead, "perceiver": PerceiverHead, "last_token_mlp": LastTokenHead}
    return heads[config.head](config, inputs, hidden)


def needs_background(network: nn.Module) -> bool:
    """Tell whether a head has room for a background that was not set."""
    return hasattr(network, "background") and not network.background.any()
