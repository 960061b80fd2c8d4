"""Losses, one function each; logits are those of the positions that predict the targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
