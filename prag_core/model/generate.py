"""Generate: prompts and adapters go in, texts come out; the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prag_core.adapters.adapter import Adapter
from prag_core.model.base_model import BaseModel
from prag_core.model.decoding import DecodingBatch
from prag_core.model.decoding_rows import Row
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    adapters: Sequence[Adapter | None] | Adapter | None = None,
    options: GenerationOptions | Sequence[GenerationOptions] | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
) -> list[str]:
    """Answer each prompt; rows of similar length are decoded together.

    Args:
        base: the base model.
        prompts: full prompts (see `prompts`), special tokens included.
        adapters: one for all prompts, one a prompt (None: none), or None.
        options: decoding options, of all prompts or one a prompt; batches are as the first says.
        prefixes: what is known already of every prompt's beginning (see `prefix`), or None.

    Returns:
        One text a prompt, in order, without stop strings and surrounding space.

    Raises:
        ValueError: not one adapter or option a prompt, or a prompt that is empty or too long.
    """
    each = _of_rows(options, len(prompts))
    shared = adapters is None or isinstance(adapters, Adapter)
    if not shared and len(adapters) != len(prompts):
        raise ValueError(f"got {len(adapters)} adapters, expected {len(prompts)}: one a prompt")
    # By length in characters, near enough to tokens: short prompts are not padded to long ones.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    size = each[0].batch_size if each else 1
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = adapters if shared else [adapters[i] for i in rows]
        known = prefixes and [prefixes[i] for i in rows]
        decoding = [each[i] for i in rows]
        for row, piece in stream(base, [prompts[i] for i in rows], batch, decoding, known):
            answers[rows[row]] += piece
    return [answer.strip() for answer in answers]


def stream(
    base: BaseModel,
    prompts: Sequence[str],
    adapters: Sequence[Adapter | None] | Adapter | None = None,
    options: GenerationOptions | Sequence[GenerationOptions] | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
) -> Iterator[tuple[int, str]]:
    """Decode one batch and yield (row, new text) as soon as the text is final.

    The adapters are attached during each forward pass only, so that whoever takes the pieces
    meets the unchanged model between them, and may stop taking them at any time.

    Raises:
        ValueError: an empty prompt, or one that leaves no room for an answer in the context.
    """
    shared = adapters if isinstance(adapters, Adapter) else None
    # One adapter in all rows: one product for the batch, instead of one a row.
    if not shared and adapters and all(adapter is adapters[0] for adapter in adapters):
        shared = adapters[0]
    singles = [None] * len(prompts) if shared or adapters is None else adapters
    known = prefixes or [None] * len(prompts)
    each = _of_rows(options, len(prompts))
    rows = [Row(base, *row) for row in zip(prompts, singles, each, known, strict=True)]
    # By identity: equal prompts are different rows.
    index = {id(row): place for place, row in enumerate(rows)}
    batch = DecodingBatch(base, shared)
    pieces = batch.join(rows)  # reads the prompts, which gives the first token of each
    while True:
        yield from ((index[id(row)], piece) for row, piece in pieces if piece)
        if not batch.rows:
            return
        pieces = batch.step()


def _of_rows(
    options: GenerationOptions | Sequence[GenerationOptions] | None, count: int
) -> Sequence[GenerationOptions]:
    """Return one option a row."""
    if options is None or isinstance(options, GenerationOptions):
        return [options or GenerationOptions()] * count
    if len(options) != count:
        raise ValueError(f"got {len(options)} options, expected {count}: one a prompt, or one")
    return options
