"""Attach: adapters go onto a model's forward pass, one a batch row, and come off again.

The weights are never written: forward hooks add scale * B A x, and are removed at the end, also
after an exception, so that logits before and after are bit-equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter

import torch
from torch import Tensor, nn

from prag_core.adapters.adapter import Adapter
from prag_core.model.base_model import BaseModel, ffn_linears

Pair = tuple[Tensor, Tensor]  # A (.., R, I), scale B (.., O, R)
Updates = Mapping[str, Pair]  # by module path


@contextmanager
def attached(base: BaseModel, adapters: Adapter | Sequence[Adapter | None] | None):
    """Add the adapters' updates to the model's outputs inside the `with` block.

    Args:
        base: the base model.
        adapters: one adapter for all rows, or one a batch row (None: no adapter in that row).
            Ranks may differ from row to row; they are padded with zeros.

    Raises:
        ValueError: an adapter of another base model, or a batch of another number of rows.
    """
    if isinstance(adapters, Adapter):
        updates = shared_updates(base, adapters)
    else:
        stack = AdapterStack(base)
        stack.append(list(adapters or ()))
        updates = stack.updates()
    with hooked(base, updates):
        yield base.model


@contextmanager
def hooked(base: BaseModel, updates: Updates) -> Iterator[None]:
    """Add the updates to the outputs of their modules inside the `with` block."""
    with ExitStack() as hooks:  # each handle takes its hook off at the end
        for path, (a, b) in updates.items():
            module = attrgetter(path)(base.model)  # get_submodule takes thrice the time
            hooks.enter_context(module.register_forward_hook(_lora_hook(a, b)))
        yield


def shared_updates(base: BaseModel, adapter: Adapter) -> Updates:
    """Return {path: (A (R, I), scale B (O, R))}: one adapter for every row.

    Raises:
        ValueError: an adapter of another base model.
    """
    _require(base, [adapter])
    dtype, device = base.dtype, base.device  # each searches the model
    return {path: _scaled(adapter, path, dtype, device) for path in adapter.tensors}


class AdapterStack:
    """Adapters of a batch's rows, side by side and padded in rank; rows are added and dropped."""

    def __init__(self, base: BaseModel) -> None:
        """Start without rows."""
        self.base, self.dtype, self.device = base, base.dtype, base.device
        self.ranks: list[dict[str, int]] = []  # of every row, by path
        self.slots: dict[str, tuple[Tensor, Tensor]] = {}  # A (C, R, I), B (C, O, R); C >= rows

    def append(self, adapters: Sequence[Adapter | None]) -> None:
        """Add rows.

        Raises:
            ValueError: an adapter of another base model.
        """
        _require(self.base, [adapter for adapter in adapters if adapter])
        first = len(self.ranks)
        for adapter in adapters:
            pairs = adapter.tensors.items() if adapter else ()
            self.ranks.append({path: a.shape[0] for path, (a, _) in pairs})
        for path in {path: None for ranks in self.ranks for path in ranks}:
            a, b = self._room(path)
            for row, adapter in enumerate(adapters, first):
                rank = self.ranks[row].get(path, 0)
                a[row, rank:], b[row, :, rank:] = 0, 0
                if rank:
                    pair = _scaled(adapter, path, self.dtype, self.device)
                    a[row, :rank], b[row, :, :rank] = pair

    def reorder(self, order: Sequence[int]) -> None:
        """Keep the rows `order`; one that moves must come from behind the rows that are kept."""
        for a, b in self.slots.values():
            for row, source in enumerate(order):
                if row != source:
                    a[row], b[row] = a[source], b[source]
        self.ranks = [self.ranks[source] for source in order]
        # A module that no row adapts any more goes: a row to come must find zeros there.
        paths = {path for ranks in self.ranks for path in ranks}
        self.slots = {path: pair for path, pair in self.slots.items() if path in paths}
        for path, (a, _) in self.slots.items():
            if 2 * self._rank(path) < a.shape[1]:
                self._resize(path, a.shape[0], self._rank(path))

    def updates(self, first: int = 0) -> Updates:
        """Return {path: (A (N, R, I), scale B (N, O, R))} of the rows from `first` on.

        R is that of the slots: cut to the rows' own, the tensors would be copied by every product.
        """
        rows, paths = slice(first, len(self.ranks)), set().union(*self.ranks[first:])
        return {path: (a[rows], b[rows]) for path, (a, b) in self.slots.items() if path in paths}

    def _room(self, path: str) -> tuple[Tensor, Tensor]:
        """Return the module's slots, grown to all rows and their largest rank."""
        rows, rank = len(self.ranks), self._rank(path)
        room, widest = self.slots[path][0].shape[:2] if path in self.slots else (0, 0)
        if rows > room or rank > widest:
            # Twice the rows, so that one joining after another does not copy all each time.
            rows = max(rows, 2 * room) if rows > room else room
            self._resize(path, rows, max(rank, widest))
        return self.slots[path]

    def _rank(self, path: str) -> int:
        return max(ranks.get(path, 0) for ranks in self.ranks)

    def _resize(self, path: str, rows: int, rank: int) -> None:
        """Move the module's slots into zeros of another size."""
        inputs, outputs = self.base.module_shape(path.rsplit(".", 1)[1])
        a = torch.zeros(rows, rank, inputs, dtype=self.dtype, device=self.device)
        b = torch.zeros(rows, outputs, rank, dtype=self.dtype, device=self.device)
        if path in self.slots:
            old_a, old_b = self.slots[path]
            count, common = len(old_a), min(rank, old_a.shape[1])
            a[:count, :common], b[:count, :, :common] = old_a[:, :common], old_b[:, :, :common]
        self.slots[path] = (a, b)


def _require(base: BaseModel, adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        adapter.spec.require_base(base.fingerprint)
    layers = {layer for adapter in adapters for layer in adapter.spec.layers}
    ffn_linears(base.model, (), sorted(layers))  # raises for a layer the model does not have


def _scaled(adapter: Adapter, path: str, dtype: torch.dtype, device: torch.device) -> Pair:
    """Return A (R, I) and scale B (O, R) of one module."""
    a, b = adapter.tensors[path]
    if adapter.spec.scale != 1:
        b = b.float() * adapter.spec.scale  # rounded once
    return a.to(device, dtype), b.to(device, dtype)


def _lora_hook(a: Tensor, b: Tensor):
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]  # (N, T, I)
        if a.ndim == 3 and a.shape[0] != x.shape[0]:
            raise ValueError(
                f"got a batch of {x.shape[0]} rows, expected {a.shape[0]}: one adapter a row"
            )
        if a.ndim == 3 and x.shape[1] == 1:  # decoding reads A and B once: in their own order
            return output + (b @ (a @ x.mT)).mT  # (N, 1, O)
        return output + (x @ a.mT) @ b.mT  # (N, T, O)

    return hook
