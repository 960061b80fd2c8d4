"""Learning-rate schedule: a step goes in, a factor of the highest rate comes out."""

from __future__ import annotations

import math


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Return a linear warm-up to 1, then a cosine (Loshchilov and Hutter, 2017) down to 0.1."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))
