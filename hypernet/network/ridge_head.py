"""Network: an encoding goes in, LoRA rows come out; the trained part of the generated path.

Three heads behind one interface, `forward(encoding, group, rank) -> Rows`: `ridge` (here), and in
`heads` `perceiver` (Doc-to-LoRA's shape) and `last_token_mlp` (DyPRAG's).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoding
from hypernet.network.reader import Reader, normalise
from hypernet.network.rows import Exported, Rows, stack
from prag_core.adapters.low_rank import project, rank_of_own
from prag_core.adapters.ridge_memory import RidgeMemory, solve_rows


class RidgeHead(nn.Module):
    """Ridge memory: A addresses the document's tokens in closed form, B holds learned values.

        V_t = g_t s_l ( LN(e_{t+1}) W_n + LN(h_t) W_h + u_t W_u )

    e_{t+1} is the next token's embedding, h_t the hidden state before the last adapted layer, u_t
    the reader's output, g_t = 2 sigmoid(.) a gate and s_l a scale learned per layer. With a
    `key_rank` the keys are learned, too: K_t + u_t W_d W_k diag(1 / w), W_k zero at first.
    """

    def __init__(self, config: NetworkConfig, inputs: int, hidden: int) -> None:
        """Build it for a base model with down_proj I -> H."""
        super().__init__()
        layers, shared = len(config.layers), config.shared_rows
        self.config, self.reader = config, Reader(config, hidden)
        self.next_weight = nn.Parameter(torch.eye(hidden).repeat(layers, 1, 1))  # (L, H, H)
        self.hidden_weight = nn.Parameter(torch.zeros(layers, hidden, hidden))
        self.reader_weight = nn.Parameter(torch.zeros(layers, config.width, hidden))
        self.gate = nn.Linear(config.width, layers)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        if config.key_rank:
            # Small: Adam moves every entry of key_up by about the learning rate.
            size = 0.25 / math.sqrt(config.width)
            self.key_down = nn.Parameter(size * torch.randn(config.width, config.key_rank))
            self.key_up = nn.Parameter(torch.zeros(layers, config.key_rank, inputs))
        if config.salience:
            self.salience = nn.Linear(config.width, layers)
            nn.init.zeros_(self.salience.weight)
            nn.init.zeros_(self.salience.bias)
        self.log_scale = nn.Parameter(torch.zeros(layers))
        self.log_ridge = nn.Parameter(torch.full((layers,), math.log(config.ridge)))
        self.shared_a = nn.Parameter(torch.randn(layers, shared, inputs))
        self.shared_b = nn.Parameter(torch.zeros(layers, shared, hidden))
        self.register_buffer("whitening", torch.ones(layers, inputs))
        if config.background > inputs:
            raise ValueError(
                f"got background {config.background} and keys of {inputs} dimensions, expected at "
                "most as many directions: lower model.network.background"
            )
        if config.background:
            self.register_buffer("background", torch.zeros(layers, config.background, inputs))

    @property
    def shared_count(self) -> int:
        """Rows that all documents share."""
        return self.shared_a.shape[1]

    def calibrate(self, whitening: Tensor, output_scale: Tensor) -> None:
        """Set what the frozen model determines (see `Encoder.statistics`)."""
        if self.config.whitening == "none":
            whitening = whitening.pow(-2).mean(1, keepdim=True).rsqrt()  # of all dimensions
        self.whitening.copy_(whitening.expand_as(self.whitening))
        self.log_scale.data.copy_((0.3 * output_scale).log())

    @torch.no_grad()
    def set_background(self, moment: Tensor) -> None:
        """Set the directions of general text from the second moment of its keys, (L, I, I).

        With C that of whitened keys, cut to its largest eigenvalues, a memory that also maps mu
        tokens of general text to zero (MEMIT's covariance term, Meng et al., 2023, equation 14) is
        the ridge solution under M = (1 + mu C)^-1 = 1 - N' N; N is kept.
        """
        scale, wanted = self._key_scale(), self.config.background
        for layer, raw in enumerate(moment):  # one by one: I is 14,336 in an 8B model
            eigenvalues, vectors = torch.linalg.eigh(raw.float() * scale[layer] * scale[layer].mT)
            largest = eigenvalues[-wanted:].clamp(min=0)
            shrunk = 1 - 1 / (1 + self.config.background_weight * largest)
            self.background[layer] = shrunk.sqrt()[:, None] * vectors.mT[-wanted:]

    def fast_parameters(self) -> list[nn.Parameter]:
        """Scalars per layer, which want a larger learning rate."""
        return [self.log_scale, self.log_ridge]

    def pairs(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """Return K (N, L, T, I) and V (N, L, T, H), zero at tokens that are no rows."""
        u = self.reader(encoding)  # (N, T, D)
        counts = self._counts(encoding, u)
        keys = encoding.keys.float()
        if self.config.key_rank:
            added = torch.einsum("ntr,lri->nlti", u @ self.key_down, self.key_up)
            keys = keys + added.float() / self.whitening[:, None]
        return keys * counts, self._values(encoding, u) * counts

    def _counts(self, encoding: Encoding, u: Tensor) -> Tensor:
        """Return how much each token counts, s (N, L or 1, T, 1): 0 where it is no row."""
        counts = encoding.mask[:, None, :, None].float()
        if self.config.salience:
            counts = counts * 2 * torch.sigmoid(self.salience(u)).transpose(1, 2)[..., None]
        return counts

    def _values(self, encoding: Encoding, u: Tensor) -> Tensor:
        parts = [
            torch.einsum("nth,lhk->nltk", normalise(encoding.following), self.next_weight),
            torch.einsum("nth,lhk->nltk", normalise(encoding.hidden[:, -1]), self.hidden_weight),
            torch.einsum("ntd,ldk->nltk", u, self.reader_weight),
        ]
        gate = 2 * torch.sigmoid(self.gate(u)).transpose(1, 2)[..., None]  # (N, L, T, 1)
        return gate * self.log_scale.exp()[:, None, None] * (parts[0] + parts[1] + parts[2])

    def shared(self) -> tuple[Tensor, Tensor]:
        """Return the shared rows: A (L, shared, I) and B (L, shared, H)."""
        a = self.shared_a * self.whitening[:, None] / self.whitening.shape[1]
        return a, self.shared_b * self.log_scale.exp()[:, None, None]

    def addresses(self, keys: Tensor) -> Tensor:
        """Solve for A (G, L, R, I) of keys of the same shape (see `ridge_memory`)."""
        with torch.autocast(keys.device.type, enabled=False):
            strength = self.log_ridge.exp()[:, None, None]  # (L, 1, 1)
            scale = self._key_scale()
            rows = solve_rows(self._solved_keys(keys), strength)
            return rows[..., : keys.shape[-1]] * scale

    def _solved_keys(self, keys: Tensor) -> Tensor:
        """Return what is solved over: whitened keys K, or [K M, P] with P P' = K (M - M M) K'.

        Their Gram matrix is K M K', and the first I columns of the solution are A^ under M.
        """
        keys = keys.float() * self._key_scale()
        if not self.config.background:
            return keys
        along = keys @ self.background.mT  # (..., L, R, k)
        left = 1 - self.background.square().sum(-1)  # eigenvalues of M, (L, k)
        beside = along * left.clamp(min=0).sqrt()[:, None]
        return torch.cat([keys - along @ self.background, beside], -1)

    def _key_scale(self) -> Tensor:
        return self.whitening[:, None] / self.whitening.shape[1] ** 0.5  # (L, 1, I)

    def forward(self, encoding: Encoding, group: int = 1, rank: int = 0) -> Rows:
        """Return rows of groups of `group` documents, solved together; R = group * T + shared.

        With a rank, values are projected on the directions that `prag_core.adapters.low_rank` would
        keep of an adapter of that rank, so that training sees what such an adapter says (with all
        shared rows). The directions are constants: no gradient goes through their choice.
        """
        # (G, L, M T, I), (G, L, M T, H)
        keys, values = (stack(each, group) for each in self.pairs(encoding))
        a = self.addresses(keys)
        if rank:
            own = rank_of_own(rank, self.shared_count)
            values = project(values, a, keys, own, feedback=not encoding.post_norm)
        shared_a, shared_b = self.shared()
        count = (len(a), -1, -1, -1)
        return Rows(
            torch.cat([a, shared_a[None].expand(count)], 2),
            torch.cat([values.to(a.dtype), shared_b[None].expand(count)], 2),
        )

    @torch.no_grad()
    def export(self, encoding: Encoding) -> Iterator[Exported]:
        """Yield every document's rows without padding, and what a merge needs to solve again.

        Values are computed in the precision of the encoding, as in training (bf16-mixed).
        """
        half = encoding.keys.dtype == torch.bfloat16
        with torch.autocast(encoding.keys.device.type, torch.bfloat16, enabled=half):
            pairs = self.pairs(encoding)
        shared_a, shared_b = self.shared()
        strength, scale = self.log_ridge.exp()[:, None, None], self._key_scale()
        for key, value, mask in zip(*pairs, encoding.mask, strict=True):
            solved, value = self._solved_keys(key[:, mask]), value[:, mask].float()  # (L, T, ..)
            rows = solve_rows(solved, strength)[..., : key.shape[-1]] * scale
            memory = RidgeMemory.from_keys(solved, self.whitening.clone(), self.log_ridge.exp())
            yield torch.cat([rows, shared_a], 1), torch.cat([value, shared_b], 1), memory
