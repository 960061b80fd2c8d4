"""Stacked LoRA: the A and B of many documents as trainable tensors, hooked into one frozen base."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prag_core.adapter import AdapterSpec
from prag_core.models import BaseModel

EAGER_TOKENS = 512  # longest row that trains with eager attention on a CPU


def initial_tensors(base: BaseModel, spec: AdapterSpec, seed: int) -> dict:
    """A uniform in +-1/sqrt(I) (PEFT's Kaiming initialisation), B zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path in spec.paths():
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        a = torch.rand(spec.rank, inputs, generator=generator) * 2 - 1
        tensors[path] = (a / math.sqrt(inputs), torch.zeros(outputs, spec.rank))
    return tensors


@contextmanager
def short_attention(base: BaseModel, length: int) -> Iterator[None]:
    """Train with eager attention on a CPU where no row is longer than EAGER_TOKENS.

    The backward pass of torch's fused attention is slow on short rows there: one epoch of four
    documents of the demo took 4.3 s instead of 5.4 s (embedded model, 2 cores). Eager attention
    holds (T, T) scores of every layer, so long rows keep theirs.
    """
    before = base.model.config._attn_implementation
    eager = base.device.type == "cpu" and length <= EAGER_TOKENS
    base.model.set_attn_implementation("eager" if eager else before)
    try:
        yield
    finally:
        base.model.set_attn_implementation(before)


class StackedLora:
    """Stacked trainable A (N, R, I) and B (N, O, R) of N documents, hooked into the base model."""

    def __init__(self, base: BaseModel, spec: AdapterSpec, init: dict, count: int) -> None:
        """Start every document from the same {path: (A (R, I), B (O, R))}."""
        self.base, self.spec, self.count = base, spec, count
        self.pairs = {}
        for path, pair in init.items():
            self.pairs[path] = tuple(
                t.float().to(base.device).repeat(count, 1, 1).requires_grad_() for t in pair
            )

    def parameters(self) -> list[Tensor]:
        """Return all trainable tensors."""
        return [tensor for pair in self.pairs.values() for tensor in pair]

    def tensors(self, row: int, dtype: torch.dtype) -> dict:
        """Return copies of A (R, I) and B (O, R) of one document."""
        return {
            path: tuple(t[row].detach().to(dtype).cpu().clone() for t in pair)
            for path, pair in self.pairs.items()
        }

    def __enter__(self) -> StackedLora:
        """Add scale * B A x to the model's outputs; rows of one document stand together."""
        self.handles = [
            self.base.model.get_submodule(path).register_forward_hook(self._hook(*pair))
            for path, pair in self.pairs.items()
        ]
        return self

    def __exit__(self, *_) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()

    def _hook(self, a: Tensor, b: Tensor):
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            x = inputs[0]  # (N * rows, T, I)
            x = x.reshape(self.count, -1, x.shape[-1])  # (N, rows * T, I)
            low = x @ a.to(x.dtype).mT  # (N, rows * T, R)
            update = low @ (b * self.spec.scale).to(x.dtype).mT  # (N, rows * T, O)
            return output + update.view_as(output)

        return hook
