"""Encoder: token ids go in; the frozen base model's FFN activations and hidden states come out.

The input of `down_proj` at a token is the key under which the model can find that token again:
the same word in a similar context gives nearly the same activation (hence the `ridge` head).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prag_core.model.base_model import BaseModel, ffn_linears, start_token
from prag_core.model.padding import pad


@dataclass(frozen=True)
class Encoding:
    """What a head may read of N documents, right-padded to T tokens.

    Attributes:
        keys: inputs of down_proj in the adapted layers, (N, L, T, I).
        hidden: residual stream before every adapted layer, (N, L, T, H).
        embeddings: input embeddings of the tokens, (N, T, H).
        following: input embeddings of the next tokens, (N, T, H).
        mask: tokens that may become rows, (N, T) bool: not padding, not the first, not the last.
        post_norm: of the base model (see `BaseModel.post_norm`).
        final: the base model's last hidden state at the last token that is a row, (N, H), where
            the encoder reads to the end.
    """

    keys: Tensor
    hidden: Tensor
    embeddings: Tensor
    following: Tensor
    mask: Tensor
    post_norm: bool = False
    final: Tensor | None = None


class Encoder:
    """Runs the frozen base model over documents; holds no trained weights."""

    def __init__(self, base: BaseModel, layers: Sequence[int], to_the_end: bool = False) -> None:
        """Choose the adapted layers.

        Args:
            base: frozen base model.
            layers: adapted decoder layers.
            to_the_end: read with the layers after the last adapted one, too (`Encoding.final`).

        Raises:
            ValueError: no layers, or one that the model does not have.
        """
        if not layers:
            raise ValueError("got no layers, expected at least one layer index to adapt")
        self.base, self.layers = base, tuple(sorted(set(layers)))
        self.to_the_end = to_the_end
        self.linears = list(ffn_linears(base.model, ("down_proj",), self.layers).values())

    def frame(self, ids: Sequence[int]) -> list[int]:
        """Put a start and an end token around a document.

        The first is the attention sink, the last is what follows the last word; both are no rows.
        """
        return [start_token(self.base.tokenizer), *ids, self.base.tokenizer.eos_token_id]

    @torch.no_grad()
    def __call__(self, ids: Tensor, lengths: Tensor) -> Encoding:
        """Encode ids (N, T), right-padded, of the given lengths (N,).

        Causal attention never looks right, so padding needs no mask and changes nothing.
        """
        keys: dict[int, Tensor] = {}
        hidden: dict[int, Tensor] = {}
        states = None
        blocks = self.base.model.get_submodule("model.layers")
        with ExitStack() as hooks:  # each handle takes its hook off at the end
            for layer, linear in zip(self.layers, self.linears, strict=True):
                hooks.enter_context(linear.register_forward_pre_hook(_record(keys, layer)))
                norm = blocks[layer].input_layernorm  # its input is the residual stream
                hooks.enter_context(norm.register_forward_pre_hook(_record(hidden, layer)))
            if not self.to_the_end:
                # Behind the recording hook of the same layer: hooks run in order.
                hooks.enter_context(self.linears[-1].register_forward_pre_hook(_stop))
            with suppress(_LastKeysError):
                output = self.base.model.get_submodule("model")(input_ids=ids, use_cache=False)
                states = output.last_hidden_state  # (N, T, H)
        embeddings = self.base.model.get_input_embeddings()(ids)  # (N, T, H)
        position = torch.arange(ids.shape[1], device=ids.device)[None]  # (1, T)
        last = (lengths - 2).clamp(min=0)  # (N,), the token before the end token
        return Encoding(
            keys=torch.stack([keys[layer] for layer in self.layers], 1),  # (N, L, T, I)
            hidden=torch.stack([hidden[layer] for layer in self.layers], 1),  # (N, L, T, H)
            embeddings=embeddings,
            # What wraps around stands in the last column, which is no row in any document.
            following=embeddings.roll(-1, 1),  # (N, T, H)
            mask=(position > 0) & (position < lengths[:, None] - 1),  # (N, T)
            post_norm=self.base.post_norm,
            final=None if states is None else states[torch.arange(len(ids)), last],  # (N, H)
        )

    @torch.no_grad()
    def second_moment(self, rows: Sequence[Sequence[int]], batch_size: int = 16) -> Tensor:
        """Return the second moment of the keys of framed documents' tokens, (L, I, I)."""
        total, count = 0.0, 0
        for start in range(0, len(rows), batch_size):
            batch = pad(rows[start : start + batch_size], self.base.tokenizer.pad_token_id)
            tokens = self.tokens(*(x.to(self.base.device) for x in batch)).float()  # (L, P, I)
            total, count = total + tokens.mT @ tokens, count + tokens.shape[1]  # (L, I, I)
        return total / count

    def tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the keys of the P tokens of all documents that are rows, (L, P, I).

        Raises:
            ValueError: activations that are not finite.
        """
        encoding = self(ids, lengths)
        tokens = encoding.keys.permute(1, 0, 2, 3)[:, encoding.mask]  # (L, N, T, I) -> (L, P, I)
        if not torch.isfinite(tokens).all():
            raise ValueError("got activations that are not finite: load the model in bfloat16")
        return tokens

    @torch.no_grad()
    def statistics(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a head is calibrated with, from general text.

        Returns:
            1 / root mean square of every key dimension (L, I), and the standard deviation of
            down_proj's output (L,), both over the documents' tokens.
        """
        tokens = self.tokens(ids, lengths)  # (L, P, I)
        # Clamped for dimensions that no token used: they must not become infinite.
        scale = tokens.float().square().mean(1).clamp(min=1e-12).rsqrt()  # (L, I)
        outputs = [linear(k).float().std() for linear, k in zip(self.linears, tokens, strict=True)]
        return scale, torch.stack(outputs)


class _LastKeysError(Exception):
    """Ends a pass of the base model at the last adapted layer: what comes after is not needed."""


def _stop(module: nn.Module, inputs: tuple[Tensor]) -> None:
    raise _LastKeysError


def _record(target: dict[int, Tensor], layer: int):
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
        target[layer] = inputs[0]

    return hook
