"""Losses against their definitions."""

from __future__ import annotations

import pytest
import torch

from hypernet.training.losses import kl_to_teacher, mean_by_kind, token_nll, weight_regression


def test_losses():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 1, 2])
    expected = -logits.log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(token_nll(logits, targets), expected)
    assert kl_to_teacher(logits, logits).abs().max() < 1e-6
    assert (kl_to_teacher(logits, torch.randn(5, 7)) > 0).all()
    kinds = torch.tensor([0, 0, 1, 1, 1])
    means = mean_by_kind(torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0]), kinds, 3)
    assert means.tolist() == [2, 3, 0]
    a, b = torch.randn(4, 6), torch.randn(4, 5)
    order = torch.tensor([2, 0, 3, 1])
    assert weight_regression(a, b, a[order] * 2, b[order] / 2).item() == pytest.approx(0, abs=1e-9)
