"""Padding: token rows of any lengths go in, one rectangular tensor comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(
    rows: Sequence[Sequence[int]], value: int = 0, multiple: int = 1, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Pad token ids to one length; returns ids (N, T) and lengths (N,), on the CPU.

    Args:
        rows: token ids.
        value: written where a row has ended.
        multiple: T is the longest row's length, rounded up to a multiple of this.
        left: put the padding before the rows (decoding goes on from their ends).
    """
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple
    # Not `pad_sequence`: it knows no multiple, and would want every row as a tensor.
    ids = torch.full((len(rows), width), value, dtype=torch.long)  # (N, T)
    for index, row in enumerate(rows):
        begin = width - len(row) if left else 0
        ids[index, begin : begin + len(row)] = torch.as_tensor(row)
    return ids, torch.tensor([len(row) for row in rows])


def labels(ids: Tensor, starts: Sequence[int], lengths: Tensor, ignore: int) -> Tensor:
    """Return ids (N, T) from every row's start to its end, `ignore` elsewhere."""
    place = torch.arange(ids.shape[1])[None]  # (1, T)
    inside = (place >= torch.tensor(starts)[:, None]) & (place < lengths[:, None])
    return ids.masked_fill(~inside, ignore)
