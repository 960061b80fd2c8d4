"""Losses, one function each; logits are those of the positions that predict the targets.

`TrainedAdapters` finds what the weight regression compares generated rows with.
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


def kl_to_teacher(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(teacher || student) of every position; (P, V) twice -> (P,).

    With the teacher reading the passage it is context distillation (Snell et al., 2022; used by
    Doc-to-LoRA, 2026); with the base model as teacher, on what the document does not answer, it
    says that an adapter leaves unrelated text alone.
    """
    student = torch.log_softmax(logits.float(), -1)  # (P, V)
    teacher = torch.log_softmax(teacher_logits.float(), -1)
    return (teacher.exp() * (teacher - student)).sum(-1)


def weight_regression(a: Tensor, b: Tensor, trained_a: Tensor, trained_b: Tensor) -> Tensor:
    """Return the mean squared difference of the updates B'A of generated and trained LoRAs.

    DyPRAG (Tan et al., 2025, eq. 6) compares A and B apart; the update itself does not depend on
    the order of rows or on how scale is shared between A and B.
    """
    return functional.mse_loss(b.mT @ a, trained_b.mT @ trained_a)  # of (H, I) each


def mean_by_kind(losses: Tensor, kinds: Tensor, count: int) -> Tensor:
    """Average losses (P,) within each kind (P,) of 0..count-1; a kind without any gives 0."""
    total = losses.new_zeros(count).index_add(0, kinds, losses)  # (count,)
    number = losses.new_zeros(count).index_add(0, kinds, torch.ones_like(losses))
    return total / number.clamp(min=1)


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
