"""Attach and generate: adapters and prompts go in, texts come out; the model is left as it was.

`attached` takes one adapter a batch row, so one batch answers questions over different documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from prag_core.adapter import Adapter
from prag_core.models import BaseModel, ffn_linears


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are decoded.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 is greedy; above it, sampling.
        top_p: nucleus of the distribution that sampling draws from.
        stop: strings that end an answer (they are cut off).
        seed: of the sampling.
        batch_size: rows decoded together.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("\n",)
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError(
                f"got max_new_tokens {self.max_new_tokens} and batch_size {self.batch_size}, "
                "expected 1 or more of both"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"got temperature {self.temperature} and top_p {self.top_p}, expected "
                "temperature >= 0 and 0 < top_p <= 1"
            )


@contextmanager
def attached(base: BaseModel, adapters: Adapter | Sequence[Adapter | None] | None):
    """Add the adapters' updates to the model's outputs inside the `with` block.

    The weights are never written: forward hooks add scale * B A x, and are removed at the end,
    also after an exception, so that logits before and after are bit-equal.

    Args:
        base: the base model.
        adapters: one adapter for all rows, or one a batch row (None: no adapter in that row).
            Ranks may differ from row to row; they are padded with zeros.

    Raises:
        ValueError: an adapter of another base model, or a batch of another number of rows.
    """
    with _hooked(base, _stack(base, adapters)):
        yield base.model


@contextmanager
def _hooked(base: BaseModel, stacked: dict[str, tuple[Tensor, Tensor]]):
    handles = []
    try:
        for path, (a, b) in stacked.items():
            module = attrgetter(path)(base.model)  # get_submodule takes thrice the time
            handles.append(module.register_forward_hook(_lora_hook(a, b)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stack(
    base: BaseModel, adapters: Adapter | Sequence[Adapter | None] | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {path: (A' (I, R), B' (R, O))}, with a leading N for one adapter a row."""
    single = isinstance(adapters, Adapter)
    rows = [adapters] if single else list(adapters or ())
    for adapter in filter(None, rows):
        adapter.spec.require_base(base.fingerprint)
    layers = {layer for adapter in filter(None, rows) for layer in adapter.spec.layers}
    ffn_linears(base.model, (), sorted(layers))  # raises for a layer the model does not have
    dtype, device = base.dtype, base.device  # each searches the model
    if single:
        return {path: _transposed(adapters, path, dtype, device) for path in adapters.tensors}
    stacked = {}
    paths = {path: None for adapter in filter(None, rows) for path in adapter.tensors}
    for path in paths:
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        pairs = [adapter and adapter.tensors.get(path) for adapter in rows]
        rank = max(pair[0].shape[0] for pair in pairs if pair)
        a = torch.zeros(len(rows), inputs, rank, dtype=dtype, device=device)
        b = torch.zeros(len(rows), rank, outputs, dtype=dtype, device=device)
        for row, (adapter, pair) in enumerate(zip(rows, pairs, strict=True)):
            if pair:
                r = pair[0].shape[0]
                a[row, :, :r], b[row, :r] = _transposed(adapter, path, dtype, device)
        stacked[path] = (a, b)
    return stacked


def _transposed(
    adapter: Adapter, path: str, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return A' (I, R) and scale B' (R, O) of one module."""
    a, b = adapter.tensors[path]
    if adapter.spec.scale != 1:
        b = b.float() * adapter.spec.scale  # rounded once
    return a.T.to(device, dtype), b.T.to(device, dtype)


def _lora_hook(a: Tensor, b: Tensor):
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]  # (N, T, I)
        if a.ndim == 3 and a.shape[0] != x.shape[0]:
            raise ValueError(
                f"got a batch of {x.shape[0]} rows, expected {a.shape[0]}: one adapter a row"
            )
        return output + (x @ a) @ b  # (N, T, O)

    return hook


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    adapters: Sequence[Adapter | None] | Adapter | None = None,
    options: GenerationOptions | None = None,
) -> list[str]:
    """Answer each prompt; rows of similar length are decoded together.

    Args:
        base: the base model.
        prompts: full prompts (see `prompts`), special tokens included.
        adapters: one for all prompts, one a prompt (None: none), or None.
        options: decoding options.

    Returns:
        One text a prompt, in order, without stop strings and surrounding space.

    Raises:
        ValueError: not one adapter a prompt, or a prompt that is empty or too long.
    """
    options = options or GenerationOptions()
    shared = adapters is None or isinstance(adapters, Adapter)
    if not shared and len(adapters) != len(prompts):
        raise ValueError(f"got {len(adapters)} adapters, expected {len(prompts)}: one a prompt")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), options.batch_size):
        rows = order[start : start + options.batch_size]
        batch = adapters if shared else [adapters[i] for i in rows]
        for row, piece in stream(base, [prompts[i] for i in rows], batch, options):
            answers[rows[row]] += piece
    return [answer.strip() for answer in answers]


@torch.no_grad()
def stream(
    base: BaseModel,
    prompts: Sequence[str],
    adapters: Sequence[Adapter | None] | Adapter | None = None,
    options: GenerationOptions | None = None,
) -> Iterator[tuple[int, str]]:
    """Decode one batch and yield (row, new text) as soon as the text is final.

    The adapters are attached during each forward pass only, so that whoever takes the pieces
    meets the unchanged model between them, and may stop taking them at any time.

    Raises:
        ValueError: an empty prompt, or one that leaves no room for an answer in the context.
    """
    options = options or GenerationOptions()
    if not all(prompts):
        raise ValueError("got an empty prompt, expected text: leave it out")
    encoded = base.tokenizer(
        list(prompts), return_tensors="pt", padding=True, add_special_tokens=False
    ).to(base.device)
    length = encoded.input_ids.shape[1]
    if length + options.max_new_tokens > base.context_length:
        raise ValueError(
            f"got a prompt of {length} tokens, expected at most "
            f"{base.context_length - options.max_new_tokens} (context {base.context_length} less "
            f"max_new_tokens {options.max_new_tokens}): use fewer or shorter passages"
        )
    rows = [_Row(base, options.stop) for _ in prompts]
    stacked = _stack(base, adapters)
    for tokens in _decode(base, stacked, encoded.input_ids, encoded.attention_mask, options):
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if piece := row.push(token):
                yield index, piece
        if all(row.done for row in rows):
            break
    for index, row in enumerate(rows):
        if piece := row.flush():
            yield index, piece


def _decode(
    base: BaseModel, stacked: dict, ids: Tensor, mask: Tensor, options: GenerationOptions
) -> Iterator[list[int]]:
    """Yield the next token of every row, up to max_new_tokens times; ids, mask (N, T)."""
    cache = DynamicCache(config=base.model.config)
    generator = torch.Generator(base.device).manual_seed(options.seed)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # (N, T)
    for _ in range(options.max_new_tokens):
        with _hooked(base, stacked):
            logits = base.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]  # (N, V)
        ids = _choose(logits, options, generator)[:, None]  # (N, 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
        yield ids[:, 0].tolist()


def _choose(logits: Tensor, options: GenerationOptions, generator: torch.Generator) -> Tensor:
    """Pick one token a row: greedy, or nucleus sampling (Holtzman et al., 2020); (N, V) -> (N,)."""
    if options.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / options.temperature, -1)
    ordered, index = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= options.top_p
    ordered = ordered.masked_fill(outside, 0.0)
    choice = torch.multinomial(ordered, 1, generator=generator)  # (N, 1)
    return index.gather(-1, choice)[:, 0]


class _Row:
    """Text of one row while it is decoded; holds back what a stop string might still cut."""

    def __init__(self, base: BaseModel, stop: tuple[str, ...]) -> None:
        self.tokenizer, self.stop = base.tokenizer, [s for s in stop if s]
        self.tokens: list[int] = []
        self.sent, self.done = 0, False
        self.ends = end_tokens(base)

    def push(self, token: int) -> str:
        """Take a token, return the text that became final."""
        if self.done:
            return ""
        if token in self.ends:
            return self.flush()
        self.tokens.append(token)
        text = self._text()
        begin = len(text) - len(text.lstrip())  # a line break before the answer ends nothing
        cuts = [text.find(s, begin if s.isspace() else 0) for s in self.stop]
        if found := [cut for cut in cuts if cut >= 0]:
            return self._send(text[: min(found)], last=True)
        held = max((_overlap(text, s) for s in self.stop), default=0)
        unfinished = len(text) - len(text.rstrip("\ufffd"))  # bytes of a UTF-8 sequence
        return self._send(text[: len(text) - max(held, unfinished)])

    def flush(self) -> str:
        """End the row and return what was held back."""
        if self.done:
            return ""
        return self._send(self._text(), last=True)

    def _text(self) -> str:
        # Cleaning up spaces would change text that was sent already.
        return self.tokenizer.decode(
            self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _send(self, text: str, last: bool = False) -> str:
        piece, self.sent = text[self.sent :], max(self.sent, len(text))
        self.done = last
        return piece


def end_tokens(base: BaseModel) -> set[int]:
    """Return the ids that end a text: the tokenizer's and those of the generation config.

    The token that begins a text (in some chat formats: a turn) ends the one before it as well.
    """
    configured = base.model.generation_config.eos_token_id  # None, a number or a list
    ends = configured if isinstance(configured, list) else [configured]
    tokenizer = base.tokenizer
    every = (tokenizer.eos_token_id, tokenizer.bos_token_id, *ends)
    return {token for token in every if token is not None}


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
