"""Heads: a config goes in, the network that it describes comes out.

Beside `RidgeHead` the field's two, behind its interface, written after their papers and public
code: learned A and B of a few rows. Both merge by concatenation: their rows hold nothing to solve
again. What differs from the published ones is said at each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoding
from hypernet.network.reader import normalise
from hypernet.network.ridge_head import RidgeHead
from hypernet.network.rows import Exported, Rows, stack


class GatedLayer(nn.Module):
    """SwiGLU feed-forward layer (Shazeer, 2020): (.., inputs) -> (.., outputs)."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        """Build it with so many inner units."""
        super().__init__()
        self.gate, self.up = nn.Linear(inputs, inner, False), nn.Linear(inputs, inner, False)
        self.down = nn.Linear(inner, outputs, False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class CrossBlock(nn.Module):
    """Latents attend to a context: a perceiver's block without self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block; its attention is four times as wide as the latents."""
        super().__init__()
        self.heads, size = heads, 4 * width // heads  # size: of a head
        # Heads that keys and values have: a quarter, or the next number below that divides them.
        groups = next(g for g in range(max(1, heads // 4), 0, -1) if heads % g == 0)
        self.latent_norm, self.context_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.output_norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, heads * size, False)
        self.key = nn.Linear(width, groups * size, False)
        self.value = nn.Linear(width, groups * size, False)
        self.out = nn.Linear(heads * size, width, False)
        self.ffn = GatedLayer(width, 4 * width, width)

    def forward(self, latents: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """Map latents (B, R, D) by a context (B, T, D); bias (B, 1, 1, T) is -1e9 at padding."""
        # Norms in float32, also where a GPU or CPU multiplies in bfloat16.
        context = self.context_norm(context.float())
        q = self._split(self.query(self.latent_norm(latents)))  # (B, heads, R, size)
        k, v = self._split(self.key(context)), self._split(self.value(context))
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, heads, R, T)
        weights = torch.softmax(scores.float() if bias is None else scores + bias, -1)
        mixed = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B, R, heads size)
        latents = latents + self.attention_norm(self.out(mixed).float())
        return latents + self.output_norm(self.ffn(self.ffn_norm(latents)).float())

    def _split(self, x: Tensor) -> Tensor:
        size = self.query.out_features // self.heads
        x = x.unflatten(-1, (-1, size)).transpose(1, 2)  # (B, groups or heads, T, size)
        return x.repeat_interleave(self.heads // x.shape[1], 1)  # (B, heads, T, size)


class LayerwiseMlp(nn.Module):
    """Residual MLP with weights of its own for every adapted layer."""

    def __init__(self, layers: int, width: int) -> None:
        """Build the MLPs of L layers."""
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up = nn.Parameter(uniform(layers, width, 4 * width))
        self.down = nn.Parameter(uniform(layers, 4 * width, width))
        self.up_bias = nn.Parameter(torch.zeros(layers, 1, 4 * width))
        self.down_bias = nn.Parameter(torch.zeros(layers, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, L, R, D) to the same shape."""
        inner = functional.silu(self.before(x) @ self.up + self.up_bias)  # (N, L, R, 4 D)
        return x + self.after(inner @ self.down + self.down_bias)


class PerceiverHead(nn.Module):
    """Doc-to-LoRA (arXiv 2602.15902): one perceiver reads every layer's activations.

    The residual stream Z_l before each adapted layer goes through a gated projection; `rows`
    latents attend to it in `blocks` blocks of cross-attention, as many output queries attend to
    these latents in one more. The same weights serve all layers. Per layer then a residual MLP, L2
    normalisation, and a linear map to the rows of A and B, scaled by a number a row (1 for A, 0 for
    B at first); beside them as many rows that do not depend on the document.

    Published is a width of 0.22 H (512), 16 heads, 9 + 1 blocks, 8 rows, down_proj of all layers,
    and KL to the model that reads (`teacher_weight`) on answers that this model wrote.
    Different here: the KL is on gold answers; activations are normalised, and A and B are
    calibrated as the ridge head's are (A x is about 1, B has the scale of down_proj's output), so
    that one learning rate fits every base model; the first and the last token are not read; no L1
    penalty on A and B.
    """

    def __init__(self, config: NetworkConfig, inputs: int, hidden: int) -> None:
        """Build it for a base model with down_proj I -> H."""
        super().__init__()
        layers, width, rows = len(config.layers), config.width, config.rows
        self.project = GatedLayer(hidden, 4 * hidden, width)
        blocks = range(config.blocks)
        self.blocks = nn.ModuleList(CrossBlock(width, config.attention_heads) for _ in blocks)
        self.decoder = CrossBlock(width, config.attention_heads)
        self.latents, self.queries = (nn.Parameter(torch.randn(rows, width)) for _ in range(2))
        self.latent_norm, self.query_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.refine = LayerwiseMlp(layers, width)
        self.to_a = nn.Parameter(uniform(layers, width, inputs))
        self.to_b = nn.Parameter(uniform(layers, width, hidden))
        self.scale_a = nn.Parameter(torch.ones(layers, rows, 1))
        self.scale_b = nn.Parameter(torch.zeros(layers, rows, 1))
        self.log_scale = nn.Parameter(torch.zeros(layers))
        self.shared_a = nn.Parameter(torch.randn(layers, rows, inputs))
        self.shared_b = nn.Parameter(torch.zeros(layers, rows, hidden))
        self.register_buffer("whitening", torch.ones(layers, inputs))

    @property
    def shared_count(self) -> int:
        """Rows that all documents share."""
        return self.shared_a.shape[1]

    def calibrate(self, whitening: Tensor, output_scale: Tensor) -> None:
        """Set what the frozen model determines (see `Encoder.statistics`)."""
        self.whitening.copy_(whitening)
        self.log_scale.data.copy_((0.3 * output_scale).log())

    def fast_parameters(self) -> list[nn.Parameter]:
        """Scalars per layer and row, which want a larger learning rate."""
        return [self.scale_a, self.scale_b, self.log_scale]

    def codes(self, encoding: Encoding) -> Tensor:
        """Return row codes of length 1, (N, L, R, D)."""
        count, layers = encoding.hidden.shape[:2]
        context = self.project(normalise(encoding.hidden)).flatten(0, 1)  # (N L, T, D)
        bias = torch.zeros(encoding.mask.shape, device=context.device)
        bias = bias.masked_fill(~encoding.mask, -1e9).repeat_interleave(layers, 0)[:, None, None]
        latents = self.latents.expand(count * layers, -1, -1)
        for block in self.blocks:
            latents = block(latents, context, bias)  # (N L, R, D)
        queries = self.queries.expand(count * layers, -1, -1)
        z = self.query_norm(self.decoder(queries, self.latent_norm(latents), None))
        z = self.refine(z.unflatten(0, (count, layers)))  # (N, L, R, D)
        return functional.normalize(z.float(), dim=-1)

    def rows(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """Return the documents' rows a (N, L, R, I) and b (N, L, R, H), without shared ones."""
        codes = self.codes(encoding)
        size = self._sizes()
        # sqrt(D): numbers of about 1 from codes of length 1 and weights of variance 1 / D.
        a = math.sqrt(codes.shape[-1]) * (codes @ self.to_a) * self.scale_a * size[0]
        b = math.sqrt(codes.shape[-1]) * (codes @ self.to_b) * self.scale_b * size[1]
        return a, b

    def shared(self) -> tuple[Tensor, Tensor]:
        """Return the shared rows: A (L, R, I) and B (L, R, H)."""
        size = self._sizes()
        return self.shared_a * size[0], self.shared_b * size[1]

    def _sizes(self) -> tuple[Tensor, Tensor]:
        a = self.whitening[:, None] / self.whitening.shape[1] ** 0.5  # (L, 1, I): A x is about 1
        return a, self.log_scale.exp()[:, None, None]  # (L, 1, 1)

    def forward(self, encoding: Encoding, group: int = 1, rank: int = 0) -> Rows:
        """Return rows of groups of `group` documents; R = (group + 1) * rows, whatever `rank`."""
        a, b = (stack(x, group) for x in self.rows(encoding))  # (G, L, M R, I), (G, L, M R, H)
        shared_a, shared_b = (x.to(a.dtype).expand(len(a), -1, -1, -1) for x in self.shared())
        return Rows(torch.cat([a, shared_a], 2), torch.cat([b, shared_b], 2))

    def export(self, encoding: Encoding) -> Iterator[Exported]:
        """Yield every document's rows; there is nothing that a merge could solve again."""
        rows = self.forward(encoding)
        yield from ((a.float(), b.float(), None) for a, b in zip(rows.a, rows.b, strict=True))


class LastTokenHead(nn.Module):
    """DyPRAG (arXiv 2503.23895): an MLP a layer and matrix on the last token's last hidden state.

        A_l = W2 relu(W1 [s; l]) as (R, I),  B_l likewise as (R, H);  no biases, W ~ N(0, 1e-7)

    s is the base model's final hidden state at the document's last token, l the layer's number, the
    hidden layer has p = `width` units (published: 32). Published are adapters of rank 2 for the
    three matrices of every feed-forward layer; here those of down_proj alone, with as many rows in
    all (`rows: 6`). The published code applies B A without LoRA's scale; here B carries it, so that
    a perfect imitation of a trained adapter acts as that adapter does. Weights as small as these
    begin to learn by imitation alone (`regression_weight`): both factors being near zero, the
    language-model loss has a gradient of 1e-14.
    """

    shared_count = 0

    def __init__(self, config: NetworkConfig, inputs: int, hidden: int) -> None:
        """Build it for a base model with down_proj I -> H."""
        super().__init__()
        layers, width = len(config.layers), config.width
        self.first = nn.ParameterList(small(layers, hidden + 1, width) for _ in "AB")
        self.second = nn.ParameterList(
            small(layers, width, config.rows * size) for size in (inputs, hidden)
        )
        self.row_count = config.rows
        self.register_buffer("numbers", torch.tensor(config.layers, dtype=torch.float32))

    def calibrate(self, whitening: Tensor, output_scale: Tensor) -> None:
        """Set nothing: the published network has no constants of the base model."""

    def fast_parameters(self) -> list[nn.Parameter]:
        """Return none: there are no scalars."""
        return []

    def rows(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """Return a (N, L, R, I) and b (N, L, R, H), in float32 as published."""
        with torch.autocast(encoding.final.device.type, enabled=False):
            state = encoding.final.float()[:, None].expand(-1, len(self.numbers), -1)  # (N, L, H)
            number = self.numbers[None, :, None].expand(len(state), -1, -1)
            state = torch.cat([state, number], -1)  # (N, L, H + 1)
            written = []
            for first, second in zip(self.first, self.second, strict=True):
                inner = functional.relu(torch.einsum("nlh,lhp->nlp", state, first))
                flat = torch.einsum("nlp,lpk->nlk", inner, second)
                written.append(flat.unflatten(-1, (self.row_count, -1)))  # (N, L, R, I or H)
        return written[0], written[1]

    def forward(self, encoding: Encoding, group: int = 1, rank: int = 0) -> Rows:
        """Return rows of groups of `group` documents; R = group * rows, whatever `rank`."""
        a, b = self.rows(encoding)
        return Rows(stack(a, group), stack(b, group))

    def export(self, encoding: Encoding) -> Iterator[Exported]:
        """Yield every document's rows; there is nothing that a merge could solve again."""
        yield from ((a, b, None) for a, b in zip(*self.rows(encoding), strict=True))


def uniform(layers: int, inputs: int, outputs: int) -> Tensor:
    """Return weights (L, inputs, outputs) of variance 1 / inputs."""
    bound = math.sqrt(3 / inputs)
    return torch.empty(layers, inputs, outputs).uniform_(-bound, bound)


def small(layers: int, inputs: int, outputs: int) -> nn.Parameter:
    """Return weights (L, inputs, outputs) of standard deviation 1e-7."""
    return nn.Parameter(1e-7 * torch.randn(layers, inputs, outputs))


def build_head(config: NetworkConfig, inputs: int, hidden: int) -> nn.Module:
    """Return the chosen head for a base model with down_proj I -> H."""
    heads = {"ridge": RidgeHead, "perceiver": PerceiverHead, "last_token_mlp": LastTokenHead}
    return heads[config.head](config, inputs, hidden)


def needs_background(network: nn.Module) -> bool:
    """Tell whether a head has room for a background that was not set."""
    return hasattr(network, "background") and not network.background.any()
