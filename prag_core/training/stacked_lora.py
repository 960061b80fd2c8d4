"""Stacked LoRA: the A and B of many documents as trainable tensors, hooked into one frozen base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.model.attach import hooked, shared_updates
from prag_core.model.base_model import BaseModel

EAGER_TOKENS = 512  # longest row that trains with eager attention on a CPU


def initial_tensors(base: BaseModel, spec: AdapterSpec, seed: int) -> dict:
    """A uniform in +-1/sqrt(I) (PEFT's Kaiming initialisation), B zero."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
    tensors = {}
    for path in spec.paths():
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        a = torch.rand(spec.rank, inputs, generator=generator) * 2 - 1  # (R, I)
        # With B zero the first forward pass is the base model's.
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

    def __init__(
        self,
        base: BaseModel,
        spec: AdapterSpec,
        starts: Sequence[dict],
        shared: Adapter | None = None,
    ) -> None:
        """Start every document from its own {path: (A (r, I), B (O, r))}.

        Smaller ranks are padded with zero rows, which get no gradient and stay zero.

        Args:
            base: frozen base model.
            spec: modules, layers and scale.
            starts: one a document.
            shared: adapter that is attached to all documents beside, and not trained.
        """
        self.shared = shared_updates(base, shared) if shared else {}
        self.base, self.spec, self.count = base, spec, len(starts)
        self.ranks = [{path: a.shape[0] for path, (a, _) in start.items()} for start in starts]
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.parameters: list[Tensor] = []
        for path in starts[0]:
            rows = [a.float() for a, _ in (start[path] for start in starts)]
            # Turned, because `pad_sequence` pads the first dimension: the rank in both.
            columns = [b.float().mT for _, b in (start[path] for start in starts)]  # (r, O) each
            a = pad_sequence(rows, batch_first=True).to(base.device)  # (N, R, I)
            b = pad_sequence(columns, batch_first=True).mT.contiguous().to(base.device)  # (N, O, R)
            self.parameters += [b.requires_grad_(), a.requires_grad_()]
            self.pairs[path] = (a, b)

    def tensors(self, row: int, dtype: torch.dtype) -> dict:
        """Return copies of A (r, I) and B (O, r) of one document."""
        copies = {}
        for path, (a, b) in self.pairs.items():
            rank = self.ranks[row][path]
            pair = a[row, :rank], b[row, :, :rank]  # (r, I), (O, r)
            # Cloned, or a saved adapter would hold the whole stack's storage.
            copies[path] = tuple(
                t.detach().to(dtype).cpu().clone(memory_format=torch.contiguous_format)
                for t in pair
            )
        return copies

    def __enter__(self) -> StackedLora:
        """Add scale * B A x to the model's outputs; rows of one document stand together."""
        with ExitStack() as hooks:
            hooks.enter_context(hooked(self.base, self.shared))
            for path, pair in self.pairs.items():
                module = self.base.model.get_submodule(path)
                hooks.callback(module.register_forward_hook(self._hook(*pair)).remove)
            self.hooks = hooks.pop_all()
        return self

    def __exit__(self, *_) -> None:
        """Leave the model as it was."""
        self.hooks.close()

    def _hook(self, a: Tensor, b: Tensor):
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            x = inputs[0]  # (N * rows, T, I)
            x = x.reshape(self.count, -1, x.shape[-1])  # (N, rows * T, I)
            low = x @ a.to(x.dtype).mT  # (N, rows * T, R)
            update = low @ (b * self.spec.scale).to(x.dtype).mT  # (N, rows * T, O)
            return output + update.view_as(output)

        return hook
