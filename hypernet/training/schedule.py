"""Optimizer of the network, its learning rate over steps, and a check of its gradients."""

from __future__ import annotations

import math

import torch


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Return a linear warm-up to 1, then a cosine (Loshchilov and Hutter, 2017) down to 0.1."""
    if step < warmup:  # step 0 already learns
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def adamw(network: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019); scalars per layer learn ten times faster."""
    # Adam moves every number by about the rate, and a scale has further to go than a matrix entry.
    fast = {id(parameter) for parameter in network.fast_parameters()}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in fast]
    groups = [
        {"params": rest, "lr": rate, "weight_decay": decay},
        {"params": network.fast_parameters(), "lr": 10 * rate, "weight_decay": 0.0},
    ]
    # 0.98: gradients of small, changing batches want a shorter average than the default's 0.999.
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def require_finite_gradients(network: torch.nn.Module, step: int) -> None:
    """Raise ValueError for gradients that are no numbers (after DDP's sum: in all processes)."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
        raise ValueError(
            f"got gradients that are not finite in step {step}, expected numbers: start from the "
            "exported weights (--model.weights) with a lower model.learning_rate"
        )
