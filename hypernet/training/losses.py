"""Losses, one function each; logits are those of the positions that predict the targets.

`TrainedAdapters` finds what generated rows are to imitate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hypernet.network.rows import Rows
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.store import AdapterStore
from prag_core.model.base_model import BaseModel


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of every target; logits (P, V), targets (P,) -> (P,)."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def weight_regression(rows: Rows, trained: Rows) -> Tensor:
    """Return the distance of every document's rows to those of its trained adapter, (N,).

    As DyPRAG's code has it (arXiv 2503.23895, equation 6): the mean squared difference of A, and of
    B, each by itself, summed over the layers.
    """
    pairs = (rows.a, trained.a), (rows.b, trained.b)  # (N, L, R, I), (N, L, R, H)
    return sum((x.float() - y).square().mean((2, 3)).sum(1) for x, y in pairs)


class TrainedAdapters:
    """Adapters that were trained for the documents, as targets of generated rows."""

    def __init__(self, store: str, base: BaseModel, layers: Sequence[int]) -> None:
        """Open the store.

        Args:
            store: folder of `prag parametrize --path trained`.
            base: the base model; adapters of another one are refused.
            layers: adapted decoder layers of the network, in order.

        Raises:
            FileNotFoundError: no store there.
        """
        if not (Path(store) / "store.json").exists():
            raise FileNotFoundError(
                f"got no adapter store at {store!r}, expected trained adapters for "
                "model.regression_weight and model.imitation_weight: make them with `prag "
                "parametrize`, set model.trained_store"
            )
        self.store, self.base = AdapterStore(store, readonly=None), base
        self.paths = [f"model.layers.{layer}.mlp.down_proj" for layer in layers]

    def rows(self, document_ids: Sequence[str], like: Rows) -> tuple[Rows, Tensor]:
        """Return the trained adapters as rows, zero where there is none, and who has one (N,).

        Args:
            document_ids: of the N documents.
            like: generated rows of groups of one document, a (N, L, R, I) and b (N, L, R, H).

        Raises:
            ValueError: several adapters of a document, or one of another base model, rank or
                layers.
        """
        a, b = torch.zeros_like(like.a), torch.zeros_like(like.b)
        present = torch.zeros(len(a), dtype=torch.bool, device=a.device)
        for number, document_id in enumerate(document_ids):
            adapter = self._adapter(document_id, a.shape[2])
            present[number] = adapter is not None
            for index, path in enumerate(self.paths if adapter else ()):
                own_a, own_b = adapter.tensors[path]  # (R, I), (H, R)
                a[number, index] = own_a
                b[number, index] = adapter.spec.scale * own_b.mT  # generated rows have scale 1
        return Rows(a, b), present

    def _adapter(self, document_id: str, rank: int) -> Adapter | None:
        # By prefix: the trainer's fingerprint in the key is not known here.
        keys = list(self.store.keys(prefix=document_id))
        if len(keys) > 1:
            raise ValueError(
                f"got {len(keys)} adapters of document {document_id} in {self.store.path}, "
                "expected the trained one alone: parametrize into a store of its own"
            )
        if not keys:
            return None
        adapter = self.store.get(keys[0])
        adapter.spec.require_base(self.base.fingerprint)
        if adapter.rank != rank or not set(self.paths) <= adapter.tensors.keys():
            raise ValueError(
                f"got a trained adapter of rank {adapter.rank} for {sorted(adapter.tensors)[:2]}, "
                f"expected rank {rank} for {self.paths[:2]}: train adapters of down_proj in the "
                "network's layers and of this rank"
            )
        return adapter
