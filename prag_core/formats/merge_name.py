"""Merges by name: `KEY`, `KEY+KEY` or `KEY+KEY@1,0.5` and a store go in, one adapter comes out.

Serving engines know an adapter by a name alone. This one says by itself what is merged, and how, so
that an engine can ask for any documents together. In front of an engine `prag:` says whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.adapters.store import AdapterStore, UnknownKeyError

PREFIX = "prag:"


@dataclass(frozen=True)
class MergeName:
    """What is merged.

    Attributes:
        keys: of adapters in a store; a beginning that only one key has is enough.
        weights: one a key.
    """

    keys: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> MergeName:
        """Read a name, with `prag:` or without; all weights are 1 where none is given.

        Raises:
            ValueError: an empty key, or not a finite number for each.
        """
        names, at, numbers = text.removeprefix(PREFIX).partition("@")
        keys = tuple(names.split("+"))
        try:
            weights = tuple(map(float, numbers.split(","))) if at else (1.0,) * len(keys)
        except ValueError:
            weights = ()
        if not all(keys) or len(weights) != len(keys) or not all(map(math.isfinite, weights)):
            raise ValueError(
                f"got {text!r}, expected KEY, KEY+KEY or KEY+KEY@1,0.5, a number for each key: "
                "correct the name"
            )
        return cls(keys, weights)

    def __str__(self) -> str:
        """Write the name as an engine is asked for it, with weights of four digits."""
        names = PREFIX + "+".join(self.keys)
        if all(weight == 1 for weight in self.weights):
            return names
        return f"{names}@{','.join(f'{weight:.4g}' for weight in self.weights)}"

    def whole(self, store: AdapterStore) -> MergeName:
        """Return the name with whole keys; raises as `whole_key`."""
        keys = tuple(key if key in store else whole_key(store.keys(key), key) for key in self.keys)
        return MergeName(keys, self.weights)

    def adapter(self, store: AdapterStore) -> Adapter:
        """Read and merge adapters of whole keys; a single one of weight 1 comes as it is.

        Raises:
            UnknownKeyError, ValueError: as `AdapterStore.get` and `merge`.
        """
        adapters = [store.get(key) for key in self.keys]
        return adapters[0] if self.weights == (1.0,) else merge(adapters, self.weights)


def named_adapter(store: AdapterStore, text: str) -> Adapter:
    """Read the adapter of a key, or merge those of a name.

    Raises:
        UnknownKeyError, ValueError: as `MergeName.parse`, `whole_key` and `MergeName.adapter`.
    """
    if text in store:  # an imported one, whose key may have a + in it
        return store.get(text)
    return MergeName.parse(text).whole(store).adapter(store)


def whole_key(names: Iterable[str], key: str) -> str:
    """Return the one name that begins so.

    Args:
        names: those that may be meant.
        key: their beginning; an empty one is none, or it would mean the only entry of a store.

    Raises:
        UnknownKeyError: none begins so.
        ValueError: several do.
    """
    matches = list(islice((name for name in names if name.startswith(key)), 2)) if key else []
    if not matches:
        raise UnknownKeyError(
            f"got key {key!r}, which no entry has, expected exactly one: see `prag store list`"
        )
    if len(matches) > 1:
        raise ValueError(
            f"got key {key!r}, which several entries have, expected exactly one: write more of it "
            "(see `prag store list`)"
        )
    return matches[0]
