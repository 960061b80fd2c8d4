"""Rows: what every head writes, how those of a group are joined, and how they are attached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from prag_core.adapters.ridge_memory import RidgeMemory


@dataclass(frozen=True)
class Rows:
    """LoRA rows of G groups: a (G, L, R, I) and b (G, L, R, H); the update is b' a.

    The last ones, as many as the head's `shared_count`, do not depend on the documents.
    """

    a: Tensor
    b: Tensor


Exported = tuple[Tensor, Tensor, RidgeMemory | None]  # a (L, R, I), b (L, R, H); shared rows last


def stack(x: Tensor, group: int) -> Tensor:
    """Join the rows of each group's documents: (N, L, T, ..) -> (G, L, M T, ..)."""
    return x.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3)


@contextmanager
def attached_rows(linears: Sequence[nn.Linear], rows: Rows | None):
    """Add b' (a x) to the outputs of the L linear layers, one group's rows a block of the batch.

    The differentiable counterpart of `prag_core.model.attach.attached`: a batch of rows x S tokens
    is G blocks of equal size, block g using a[g] and b[g].
    """
    with ExitStack() as hooks:  # each handle takes its hook off at the end
        if rows is not None:
            # Not by index: the gradient of each layer's rows would be as large as that of all.
            layers = zip(linears, rows.a.unbind(1), rows.b.unbind(1), strict=True)
            for linear, a, b in layers:  # (G, R, I), (G, R, H)
                hooks.enter_context(linear.register_forward_hook(_hook(a, b)))
        yield


def _hook(a: Tensor, b: Tensor):
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]  # (rows, S, I)
        blocks = x.unflatten(0, (len(a), -1)).flatten(1, 2)  # (G, rows / G * S, I)
        update = (blocks @ a.to(x.dtype).mT) @ b.to(x.dtype)  # (G, rows / G * S, H)
        return output + update.view_as(output)

    return hook
