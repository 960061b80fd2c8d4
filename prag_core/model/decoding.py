"""Decoding: rows join a batch, each with its own adapter, and leave it when they are answered.

The adapters are attached during each forward pass only: between two steps the model is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from prag_core.adapters.adapter import Adapter
from prag_core.model.attach import AdapterStack, hooked, shared_updates
from prag_core.model.base_model import BaseModel
from prag_core.model.decoding_rows import Row
from prag_core.model.padding import pad
from prag_core.model.prefix import prefix_cache

GREEDY_BELOW = 1e-4  # temperature; logits divided by less overflow


class DecodingBatch:
    """Rows decoded together, one token a step; they join and leave between steps."""

    def __init__(self, base: BaseModel, shared: Adapter | None = None) -> None:
        """Start without rows.

        Args:
            base: the base model.
            shared: one adapter for all rows, instead of each its own.

        Raises:
            ValueError: an adapter of another base model.
        """
        self.base, self.rows = base, []
        self.shared = shared_updates(base, shared) if shared else None
        self.stack = AdapterStack(base)
        self.cache: DynamicCache | None = None
        # The next token of every row, which columns of the cache are its own, the token's place.
        self.ids = self.mask = self.positions = torch.empty(0)  # (N, 1), (N, T), (N, 1)

    @torch.no_grad()
    def join(self, rows: Sequence[Row]) -> list[tuple[Row, str]]:
        """Read the rows' prompts; returns every row's text after its first token.

        Raises:
            ValueError: an adapter of another base model.
        """
        rows = list(rows)
        # On the left: every row's last token then stands in the last column.
        unread = [row.ids[row.start :] for row in rows]
        ids, lengths = pad(unread, self.base.tokenizer.pad_token_id, left=True)  # (N, T)
        mask = (torch.arange(ids.shape[1], 0, -1) <= lengths[:, None]).long()  # (N, T)
        ids, mask = ids.to(self.base.device), mask.to(self.base.device)
        prefixes, starts = [row.prefix for row in rows], [row.start for row in rows]
        cache, past = prefix_cache(self.base, prefixes, starts)  # past (N, P)
        mask = torch.cat([past, mask], 1)  # (N, P + T), with padding before both parts
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, past.shape[1] :]  # (N, T)
        first = len(self.rows)
        try:
            if self.shared is None:
                self.stack.append([row.adapter for row in rows])
            tokens = self._forward(rows, first, ids, mask, positions, cache)  # (N, 1)
            self._add(tokens, mask, positions[:, -1:] + 1, cache)
        except BaseException:  # of any kind: the other rows go on without the new ones' adapters
            self.stack.reorder(range(first))
            raise
        self.rows += rows
        return self._push(rows, tokens)

    @torch.no_grad()
    def step(self) -> list[tuple[Row, str]]:
        """Decode one token of every row; returns (row, text that became final) of each."""
        self.mask = functional.pad(self.mask, (0, 1), value=1)  # (N, T + 1)
        tokens = self._forward(self.rows, 0, self.ids, self.mask, self.positions, self.cache)
        self.ids, self.positions = tokens, self.positions + 1
        return self._push(self.rows, tokens)

    def drop(self, rows: Sequence[Row]) -> None:
        """Take rows out of the batch, answered or not."""
        gone = {id(row) for row in rows}
        rest = [place for place, row in enumerate(self.rows) if id(row) not in gone]
        if len(rest) == len(self.rows):
            return
        # Rows from behind fill the holes; the others stay in place, and so do their adapters.
        count, places = len(rest), set(rest)
        movers = [place for place in rest if place >= count]
        order = [place if place in places else movers.pop() for place in range(count)]
        self.rows = [self.rows[place] for place in order]
        if self.shared is None:
            self.stack.reorder(order)
        if not order:
            self.cache = None
            return
        index = torch.tensor(order, device=self.base.device)
        self.ids, self.positions = self.ids[index], self.positions[index]
        mask = self.mask[index]  # (N, T)
        begin = int(mask.any(0).int().argmax())  # columns that only padding is left in
        self.mask = mask[:, begin:]
        for layer in self.cache.layers:
            layer.keys = layer.keys[index, :, begin:]  # (N, heads, T - begin, d)
            layer.values = layer.values[index, :, begin:]

    def _forward(self, rows, first: int, ids, mask, positions, cache) -> Tensor:
        """Run the model over rows from `first` on; returns their next tokens (N, 1)."""
        updates = self.stack.updates(first) if self.shared is None else self.shared
        state = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        with hooked(self.base, updates):
            # Of a prompt only the last token's logits: V is large.
            state |= {"use_cache": True, "logits_to_keep": 1}
            logits = self.base.model(input_ids=ids, **state).logits[:, -1]  # (N, V)
        return choose(logits, rows)

    def _add(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> None:
        """Join new rows' state to that of the others, padded on the left to one length."""
        if self.cache is None:
            self.ids, self.mask, self.positions, self.cache = ids, mask, positions, cache
            return
        length = max(self.mask.shape[1], mask.shape[1])

        def joint(*pair: Tensor) -> Tensor:  # (N, heads, T, d) twice
            return torch.cat([functional.pad(t, (0, 0, length - t.shape[2], 0)) for t in pair])

        # Both before anything changes: there may be no room for them.
        layers = list(zip(self.cache.layers, cache.layers, strict=True))
        states = [(joint(old.keys, new.keys), joint(old.values, new.values)) for old, new in layers]
        masks = [functional.pad(m, (length - m.shape[1], 0)) for m in (self.mask, mask)]
        self.ids, self.mask = torch.cat([self.ids, ids]), torch.cat(masks)
        self.positions = torch.cat([self.positions, positions])
        for layer, (keys, values) in zip(self.cache.layers, states, strict=True):
            layer.keys, layer.values = keys, values

    def _push(self, rows: Sequence[Row], tokens: Tensor) -> list[tuple[Row, str]]:
        ids = tokens[:, 0].tolist()  # one transfer from the device for all rows
        pieces = [(row, row.push(token)) for row, token in zip(rows, ids, strict=True)]
        self.drop([row for row in rows if row.finish])
        return pieces


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Pick every row's token, by its own options and random numbers; (N, V) -> (N, 1).

    Greedy, or nucleus sampling (Holtzman et al., 2020).
    """
    tokens = logits.argmax(-1, keepdim=True)  # (N, 1)
    for place, row in enumerate(rows):
        options = row.options
        if options.temperature >= GREEDY_BELOW:
            probabilities = torch.softmax(logits[place].float() / options.temperature, -1)
            if not torch.isfinite(probabilities).all():
                continue  # an adapter gone wrong must not fail the other rows
            ordered, index = probabilities.sort(descending=True)  # (V,) each
            # Outside where the tokens before it reach top_p: the likeliest one is always inside.
            outside = ordered.cumsum(-1) - ordered >= options.top_p
            ordered = ordered.masked_fill(outside, 0.0)
            tokens[place] = index[torch.multinomial(ordered, 1, generator=row.generator)]
    return tokens
