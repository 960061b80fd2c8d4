"""Losses against their definitions."""

from __future__ import annotations

import torch

from hypernet.network.rows import Rows
from hypernet.training.losses import token_nll, weight_regression


def test_losses():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 1, 2])
    expected = -logits.log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(token_nll(logits, targets), expected)

    rows, others = (Rows(torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 5)) for _ in range(2))
    by_hand = [
        sum(
            torch.nn.functional.mse_loss(x[document, layer], y[document, layer])
            for x, y in ((rows.a, others.a), (rows.b, others.b))
            for layer in range(3)
        )
        for document in range(2)
    ]
    torch.testing.assert_close(weight_regression(rows, others), torch.stack(by_hand))
