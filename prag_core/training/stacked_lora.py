"""Stacked LoRA: the A and B of many documents as trainable tensors, hooked into one frozen base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.formats.foreign_lora import pad_rank
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel

EAGER_TOKENS = 512  # longest row that trains with eager attention on a CPU


def initial_adapter(
    base: BaseModel, spec: AdapterSpec, seed: int, shared: Adapter | None = None
) -> Adapter:
    """A uniform in +-1/sqrt(I) (PEFT's Kaiming initialisation), B zero.

    Args:
        base: base model.
        spec: of the adapter.
        seed: of A.
        shared: an adapter whose rows come behind as shared ones, brought to the spec's scale.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
    tensors = {}
    for path in spec.paths():
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        a = torch.rand(spec.rank, inputs, generator=generator) * 2 - 1  # (R, I)
        # With B zero the first forward pass is the base model's.
        tensors[path] = (a / math.sqrt(inputs), torch.zeros(outputs, spec.rank))
    if not shared:
        return Adapter(spec, tensors)
    factor = shared.spec.scale / spec.scale
    for path, (a, b) in tensors.items():
        rows, columns = pad_rank(*shared.tensors[path], shared.rank)
        tensors[path] = torch.cat([a, rows.float()]), torch.cat([b, columns.float() * factor], 1)
    return Adapter(spec, tensors, shared_rows=shared.rank)


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

    def __init__(self, base: BaseModel, starts: Sequence[Adapter], train_a: bool = True) -> None:
        """Start every document from an adapter of its own; shared rows stay as they are.

        Smaller ranks are padded with zero rows, which get no gradient and stay zero.

        Args:
            base: frozen base model.
            starts: one a document, of one spec and with the same shared rows.
            train_a: without, A stays as it is, and B alone is trained (LoRA-FA, Zhang et al.,
                2023, arXiv 2308.03303).
        """
        self.base, self.starts, self.spec = base, starts, starts[0].spec
        # Attached to all documents beside.
        self.shared = starts[0].part("shared") if starts[0].shared_rows else None
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.parameters: list[Tensor] = []
        for path in self.spec.paths():
            own = [start.split(path)[0] for start in starts]
            rows = [a.float() for a, _ in own]
            # Turned, because `pad_sequence` pads the first dimension: the rank in both.
            columns = [b.float().mT for _, b in own]  # (r, O) each
            a = pad_sequence(rows, batch_first=True).to(base.device)  # (N, R, I)
            b = pad_sequence(columns, batch_first=True).mT.contiguous().to(base.device)  # (N, O, R)
            self.parameters += [b.requires_grad_(), *([a.requires_grad_()] if train_a else [])]
            self.pairs[path] = (a, b)

    def adapter(self, row: int, metadata: Mapping[str, str]) -> Adapter:
        """Copy one document's rows as they are now, and the shared ones behind them."""
        start, tensors = self.starts[row], {}
        dtype = self.spec.torch_dtype
        for path, (a, b) in self.pairs.items():
            rank = start.tensors[path][0].shape[0] - start.shared_rows
            _, (shared_a, shared_b) = start.split(path)
            # Joined, so that the adapter does not hold the whole stack's storage.
            tensors[path] = (
                torch.cat([a[row, :rank].detach().cpu(), shared_a]).to(dtype),  # (R, I)
                torch.cat([b[row, :, :rank].detach().cpu(), shared_b], 1).to(dtype),  # (O, R)
            )
        return replace(start, tensors=tensors, metadata=start.metadata | metadata).rounded()

    def __enter__(self) -> StackedLora:
        """Add scale * B A x to the model's outputs; rows of one document stand together."""
        with ExitStack() as hooks:
            if self.shared:
                hooks.enter_context(attached(self.base, self.shared))
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
            x = x.reshape(len(self.starts), -1, x.shape[-1])  # (N, rows * T, I)
            low = x @ a.to(x.dtype).mT  # (N, rows * T, R)
            update = low @ (b * self.spec.scale).to(x.dtype).mT  # (N, rows * T, O)
            return output + update.view_as(output)

        return hook
