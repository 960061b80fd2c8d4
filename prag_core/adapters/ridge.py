"""Ridge regression in closed form: keys go in, the rows that answer to them come out.

A ridge memory is a LoRA whose A rows address keys k_t (inputs of down_proj at a document's tokens)
and whose B columns hold values: ridge regression (Hoerl and Kennard, 1970) as a linear associative
memory (Kohonen, 1972) in the feed-forward layer, itself a key-value memory (Geva et al., 2021).
With K^ the keys scaled by w / sqrt(I), w a fixed whitening:

    A^ = (K^ K^' + lambda)^-1 K^          A = A^ diag(w) / sqrt(I)

so that A k_s is nearly one-hot in s. Solved over the stacked keys of several documents it is their
joint memory: no document's tokens answer for another's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_rows(keys: Tensor, strength: Tensor, slope: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return A^ and, where asked for, -dA^ / dlambda = (K^ K^' + lambda)^-1 A^.

    A row of zeros (padding) stays zero and changes no other row. Past I rows the equal form
    K^ (K^' K^ + lambda)^-1 is the smaller system.

    Args:
        keys: scaled keys K^, (..., R, I), float32.
        strength: lambda, (..., 1, 1).
        slope: also return the derivative.
    """
    if keys.shape[-2] <= keys.shape[-1]:
        inverse = _inverse(keys @ keys.mT, strength)  # (..., R, R)
        rows = inverse @ keys
        return rows, inverse @ rows if slope else None
    inverse = _inverse(keys.mT @ keys, strength)  # (..., I, I)
    rows = keys @ inverse
    return rows, rows @ inverse if slope else None


def solve_product(values: Tensor, keys: Tensor, strength: Tensor) -> Tensor:
    """Return values' A^, (O, I), without A^ itself: for more rows than outputs.

    Args:
        values: (O, R).
        keys: scaled keys K^, (R, I), float32.
        strength: lambda.
    """
    if len(keys) <= keys.shape[1]:
        factor = _factor(keys @ keys.mT, strength)  # (R, R)
        return torch.cholesky_solve(values.mT, factor).mT @ keys
    factor = _factor(keys.mT @ keys, strength)  # (I, I)
    return torch.cholesky_solve((values @ keys).mT, factor).mT


def recover_keys(rows: Tensor, gram: Tensor, strength: Tensor) -> Tensor:
    """Return K^ from A^ and K^ K^': the inverse of `solve_rows`."""
    return gram @ rows + strength * rows


def _inverse(gram: Tensor, strength: Tensor) -> Tensor:
    """Return (gram + strength)^-1 by Cholesky (batched LU fails in some CPU libraries)."""
    eye = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    return torch.cholesky_solve(eye.expand_as(gram), _factor(gram, strength))


def _factor(gram: Tensor, strength: Tensor) -> Tensor:
    """Return the Cholesky factor of gram + strength."""
    eye = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    return torch.linalg.cholesky_ex(gram + strength * eye)[0]
