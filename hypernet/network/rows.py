"""Rows: what every head writes, and how the rows of a group are joined."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prag_core.adapters.ridge_memory import RidgeMemory


@dataclass(frozen=True)
class Rows:
    """LoRA rows of G groups: a (G, L, R, I) and b (G, L, R, H); the update is b' a.

    The last `shared` rows do not depend on the documents.
    """

    a: Tensor
    b: Tensor
    shared: int = 0


Exported = tuple[Tensor, Tensor, RidgeMemory | None]  # a (L, R, I), b (L, R, H); shared rows last


def stack(x: Tensor, group: int) -> Tensor:
    """Join the rows of each group's documents: (N, L, T, ..) -> (G, L, M T, ..)."""
    return x.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3)
