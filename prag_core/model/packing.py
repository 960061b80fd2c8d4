"""Packing: rows of tokens go in; sequences come out in which a common beginning stands once.

The questions about a document begin with the same instruction, and for the model that reads with
the same passage. Under causal attention a token's states depend on what stands before it alone, so
rows with a common beginning share its states: a block of rows is a tree of tokens, each of which
sees its ancestors at the position that it has in its row. What is learned is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prag_core.model.base_model import BaseModel
from prag_core.model.padding import pad

Places = list[list[int]]  # of every row of a block: where in the sequence its tokens stand


class Packed(NamedTuple):
    """B sequences of up to S tokens, a block of rows each.

    Attributes:
        ids: token ids, (B, S).
        depths: a token's position in its row, (B, S).
        seen: whether token s sees token t, (B, S, S) bool; padding sees itself.
    """

    ids: Tensor
    depths: Tensor
    seen: Tensor

    def to(self, device: torch.device) -> Packed:
        """Return it on a device."""
        return Packed(*(tensor.to(device) for tensor in self))

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of attention, (B, 1, S, S)."""
        bias = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        return bias.masked_fill(~self.seen, torch.finfo(dtype).min)[:, None]


def pack(
    blocks: Sequence[Sequence[Sequence[int]]], padding: int, multiple: int = 8
) -> tuple[Packed, list[Places]]:
    """Pack blocks of rows, a sequence each.

    Args:
        blocks: rows of token ids by block.
        padding: token id behind the end of a sequence.
        multiple: S is rounded up to it: tensor cores want it, and fewer shapes are allocated.
    """
    trees = [_tree(rows) for rows in blocks]
    ids, _ = pad([tokens for tokens, _, _ in trees], padding, multiple)  # (B, S)
    depths = torch.zeros_like(ids)
    seen = torch.eye(ids.shape[1], dtype=torch.bool).repeat(len(ids), 1, 1)  # (B, S, S)
    for block, (_, parents, _) in enumerate(trees):
        for token, parent in enumerate(parents):  # a parent stands before its children
            if parent >= 0:
                depths[block, token] = depths[block, parent] + 1
                seen[block, token] |= seen[block, parent]
    return Packed(ids, depths, seen), [places for _, _, places in trees]


def flat(places: Sequence[Places], width: int) -> Places:
    """Return the places of all rows where sequences of that width stand one behind the other."""
    return [
        [block * width + place for place in row]
        for block, rows in enumerate(places)
        for row in rows
    ]


def packed_states(base: BaseModel, packed: Packed) -> Tensor:
    """Return the last hidden states of the model up to its head, (B * S, H).

    Raises:
        ValueError: a row longer than the model's sliding window, which the mask does not have.
    """
    window = getattr(base.model.config, "sliding_window", None) or packed.ids.shape[1]
    if packed.ids.shape[1] > window and (longest := int(packed.depths.max()) + 1) > window:
        raise ValueError(
            f"got a prompt of {longest} tokens to train with, expected at most {window}, the "
            f"sliding window of {base.name}: take shorter documents (data.max_document_tokens), or "
            "none with passages in the prompt"
        )
    states = base.model.get_submodule("model")(
        input_ids=packed.ids,
        attention_mask=packed.bias(base.model.dtype),
        position_ids=packed.depths,
        use_cache=False,
    )
    return states.last_hidden_state.flatten(0, 1)


def _tree(rows: Sequence[Sequence[int]]) -> tuple[list[int], list[int], Places]:
    """Return the tokens of a block, their parents (-1: none), and the places of every row."""
    tokens: list[int] = []
    parents: list[int] = []
    places: Places = []
    known: dict[tuple[int, int], int] = {}  # (parent, token) -> place
    for row in rows:
        path, at = [], -1
        for token in row:
            key = at, token
            if key not in known:
                known[key] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = known[key]
            path.append(at)
        places.append(path)
    return tokens, parents, places
