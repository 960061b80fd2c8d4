"""Regression: generated rows and trained adapters of the same documents go in, a loss comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hypernet.network.rows import Rows
from hypernet.training.losses import weight_regression
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.store import AdapterStore
from prag_core.model.base_model import BaseModel


class TrainedAdapters:
    """Targets of the weight regression: adapters that were trained for the documents."""

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
                "model.regression_weight: make them with `prag parametrize`, set "
                "model.trained_store"
            )
        self.store, self.base = AdapterStore(store, readonly=None), base
        self.paths = [f"model.layers.{layer}.mlp.down_proj" for layer in layers]

    def loss(self, document_ids: Sequence[str], rows: Rows) -> Tensor:
        """Average over layers and the documents that have a trained adapter (0: none has).

        Args:
            document_ids: of the N documents.
            rows: generated rows of groups of one document, a (N, L, R, I) and b (N, L, R, H).

        Raises:
            ValueError: several adapters of a document, or one of another base model or layers.
        """
        losses = []
        for number, document_id in enumerate(document_ids):
            adapter = self._adapter(document_id)
            for index, path in enumerate(self.paths):
                # Trained adapters may have other layers too; those in common are compared.
                if adapter is None or path not in adapter.tensors:
                    continue
                a, b = (t.to(rows.a.device, rows.a.dtype) for t in adapter.tensors[path])
                # A trained B is (H, R), a generated one (R, H) with its scale in it.
                generated = rows.a[number, index], rows.b[number, index]  # (R, I), (R, H)
                losses.append(weight_regression(*generated, a, adapter.spec.scale * b.mT))
        return torch.stack(losses).mean() if losses else rows.a.new_zeros(())

    def _adapter(self, document_id: str) -> Adapter | None:
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
        if not adapter.tensors.keys() & set(self.paths):
            raise ValueError(
                f"got a trained adapter of {sorted(adapter.tensors)[:3]}, expected one of "
                f"{self.paths[:3]}: train adapters of down_proj in the network's layers"
            )
        return adapter
