"""Optimizer of the network, its learning rate over steps or time, and a check of its gradients."""

from __future__ import annotations

import math
import time

import torch


class Clock:
    """Time that a training has used, over all of its runs."""

    def __init__(self, limit: float = 0.0) -> None:
        """Set the time that it may use, in seconds; 0: no limit."""
        self.limit, self.before = limit, 0.0
        self.start: float | None = None

    def run(self) -> None:
        """Start, or go on."""
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds used, those of earlier runs included."""
        return self.before + (0.0 if self.start is None else time.monotonic() - self.start)

    @property
    def share(self) -> float:
        """The part of the limit that is used; 0 without one."""
        return self.seconds / self.limit if self.limit else 0.0


def warmup_cosine(step: int, warmup: int, total: int, used: float = 0.0) -> float:
    """Return a linear warm-up to 1, then a cosine (Loshchilov and Hutter, 2017) down to 0.1.

    It is down at step `total`, or when all of the time is used (`used` is 1), whatever is first.
    """
    if step < warmup:  # step 0 already learns
        return (step + 1) / warmup
    share = min(1.0, max(used, (step - warmup) / max(1, total - warmup)))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def adamw(network: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019); scalars per layer learn ten times faster."""
    # Adam moves every number by about the rate, and a scale has further to go than a matrix entry.
    fast = {id(parameter) for parameter in network.fast_parameters()}
    decayed, rest = [], []
    for name, parameter in network.named_parameters():
        # A bias of several layers is (L, 1, width): no matrix either.
        matrix = parameter.dim() > 1 and not name.endswith("bias")
        if id(parameter) not in fast:
            (decayed if matrix and decay else rest).append(parameter)
    groups = [
        {"params": rest, "lr": rate, "weight_decay": 0.0},
        {"params": network.fast_parameters(), "lr": 10 * rate, "weight_decay": 0.0},
    ]
    if decayed:
        groups.append({"params": decayed, "lr": rate, "weight_decay": decay})
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
