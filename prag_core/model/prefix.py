"""Prefix: the tokens that prompts begin with go in; their keys and values come out.

What a decoder computes at a token depends on that token and those before it. The keys and values of
a passage at the front of a prompt can therefore be kept, on disk if need be, and a question that
comes behind it goes on from there: the passage is not read again, and the answer is the same. (In
bfloat16 sums are rounded otherwise in tensors of another shape, here as between two batches of
whole prompts: of two tokens that are nearly as likely the other one may come. Beyond a model's
sliding window, of Gemma and some of Mistral's, shorter rows of a batch see a little less.)

    KV/<document>-<hash>.safetensors    of one prompt's beginning, up to the question

The hash is of base model, dtype and wording. Tokens that a prompt does not begin with (a smaller
context cuts the passage, say) are not used of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import DynamicCache

from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.documents import Document
from prag_core.files import write_whole
from prag_core.model.base_model import BaseModel
from prag_core.model.fitting import fit_prompt
from prag_core.model.prompts import prompt_ids
from prag_core.model.wordings import Wording

KV = "kv"
# Two that begin differently in every vocabulary: what their prompts share is the passage's.
PROBES = ("0", "Which")


@dataclass(frozen=True)
class Prefix:
    """The beginning of prompts, as the model has read it.

    Attributes:
        ids: its T tokens.
        states: keys and values of every layer, (heads, T, d) each.
    """

    ids: tuple[int, ...]
    states: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, in the dtype that they are kept in."""
        return sum(tensor.nbytes for pair in self.states for tensor in pair)

    def common(self, ids: Sequence[int]) -> int:
        """Return how many first tokens a prompt shares with it, at least one less than it has."""
        # The last token is always read: the next one comes of it.
        return min(common_start(self.ids, ids), len(ids) - 1)

    def save(self, path: Path) -> None:
        """Write a safetensors file under a temporary name, then rename it."""
        tensors = {"ids": torch.tensor(self.ids)}
        for layer, pair in enumerate(self.states):
            for name, tensor in zip(("keys", "values"), pair, strict=True):
                tensors[f"layers.{layer}.{name}"] = tensor.cpu().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(tensors))

    @classmethod
    def load(cls, path: Path) -> Prefix:
        """Read what `save` wrote.

        Raises:
            ValueError: a damaged file.
        """
        try:
            tensors = load_file(path)
            ids = tuple(tensors.pop("ids").tolist())
            names = [(f"layers.{n}.keys", f"layers.{n}.values") for n in range(len(tensors) // 2)]
            return cls(ids, tuple((tensors[k], tensors[v]) for k, v in names))
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"got {path} that is damaged ({error}), expected the keys and values of a passage: "
                "delete it, and they are computed again"
            ) from error


def common_start(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many first tokens two rows share."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ids), len(others)))


@torch.no_grad()
def read_prefix(base: BaseModel, ids: Sequence[int]) -> Prefix:
    """Read the tokens that prompts begin with; no adapter takes part."""
    cache = DynamicCache()
    rows = torch.tensor([list(ids)], device=base.device)  # (1, T)
    # Without the head: of these tokens none is predicted.
    base.model.get_submodule("model")(input_ids=rows, past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


def prefix_cache(
    base: BaseModel, prefixes: Sequence[Prefix | None], lengths: Sequence[int]
) -> tuple[DynamicCache, Tensor]:
    """Put the rows' prefixes into one cache, padded on the left.

    Args:
        base: base model.
        prefixes: one a row, or None.
        lengths: so many first tokens of each are used; 0: none.

    Returns:
        The cache, of P tokens a row, and which of them are the row's own, (N, P).
    """
    cache, longest = DynamicCache(), max(lengths)
    counts = torch.tensor(lengths, device=base.device)
    mask = torch.arange(longest, 0, -1, device=base.device) <= counts[:, None]  # (N, P)
    if not longest:
        return cache, mask.long()
    present = next(prefix for prefix in prefixes if prefix)
    for layer, pair in enumerate(present.states):
        joint = []
        for part, like in enumerate(pair):
            states = like.new_zeros(len(lengths), like.shape[0], longest, like.shape[2])
            states = states.to(base.device)  # (N, heads, P, d)
            for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
                if prefix and length:
                    states[row, :, longest - length :] = prefix.states[layer][part][:, :length]
            joint.append(states)
        cache.update(*joint, layer)
    return cache, mask.long()


def kept_prefix(
    base: BaseModel,
    folder: Path | None,
    document: Document,
    wording: Wording,
    max_new_tokens: int,
    run: Callable[[Callable[[], Any]], Any],
) -> Prefix:
    """Load what the prompts of a document begin with, or read and keep it.

    Args:
        base: base model.
        folder: of the files; None: nothing is kept, every passage is read each time.
        document: the one passage.
        wording: of the prompt.
        max_new_tokens: that the context must have room for.
        run: runs a function that uses the model, where another thread owns it.
    """
    path = None
    if folder is not None:
        # Not of the tokens: what is kept already is found without writing a prompt.
        name = fingerprint([base.fingerprint, str(base.dtype), wording.id])
        path = folder / f"{document.id}-{name}.safetensors"
    if path is None or not path.exists():
        prompts = [fit_prompt(base, p, [document], wording, max_new_tokens).text for p in PROBES]
        first, second = (prompt_ids(base.tokenizer, prompt) for prompt in prompts)
        ids = first[: common_start(first, second)]
        prefix: Prefix = run(lambda: read_prefix(base, ids))
        if path is None:
            return prefix
        prefix.save(path)
    return Prefix.load(path)  # always from the disk: what was made now is timed as the others


def forget_passages(folder: Path, document_ids: Iterable[str]) -> None:
    """Delete what is kept of documents."""
    for document_id in document_ids:
        for path in folder.glob(f"{document_id}-*"):
            path.unlink(missing_ok=True)
