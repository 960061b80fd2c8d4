"""Training loop: stacked LoRAs and their documents' sequences go in, last losses come out.

Many documents train at once: their A and B are stacked, the frozen base runs one batch over all of
them, and the per-document losses are summed. AdamW is elementwise, so that every document's
adapter equals the one that it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from prag_core.adapters.adapter import Adapter
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.padding import labels, pad
from prag_core.model.token_loss import IGNORE, next_token_loss, sequence_nll
from prag_core.training.options import LoraTrainingOptions
from prag_core.training.sequences import TrainingSequence
from prag_core.training.stacked_lora import StackedLora, short_attention

Result = TypeVar("Result")
Load = Callable[[str], Adapter]  # of a document's id
BATCH = 16  # sequences that are scored together


def group_documents(
    sequences: Sequence[Sequence[TrainingSequence]], options: LoraTrainingOptions
) -> Iterator[list[int]]:
    """Yield indices of documents that train together: of equal step count and similar length."""

    def cost(index: int) -> tuple[int, int]:
        return len(sequences[index]), max(len(s.ids) for s in sequences[index])

    group: list[int] = []  # sorted by cost, so that neighbours need little padding
    for index in sorted(range(len(sequences)), key=cost):
        count, longest = cost(index)
        # Of one step, padding included: the newest document is the longest.
        tokens = (len(group) + 1) * min(count, options.sequences_per_step) * longest
        full = len(group) == options.documents_per_batch or tokens > options.tokens_per_batch
        if group and (full or len(sequences[group[0]]) != len(sequences[index])):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def similar_steps(
    sequences: Sequence[TrainingSequence], per_step: int, seed: int
) -> list[TrainingSequence]:
    """Order one document's sequences so that those of a step are of similar length: less padding.

    Steps come in random order; an incomplete one is the last, as `fit_steps` cuts the list.
    """
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    steps = [ordered[i : i + per_step] for i in range(0, len(ordered), per_step)]
    shuffle = torch.Generator().manual_seed(seed)
    whole = len(sequences) // per_step
    order = [*torch.randperm(whole, generator=shuffle).tolist(), *range(whole, len(steps))]
    return [sequence for i in order for sequence in steps[i]]


def fit_steps(
    base: BaseModel,
    stack: StackedLora,
    documents: Sequence[Sequence[TrainingSequence]],
    options: LoraTrainingOptions,
    decay: Callable[[], float] = lambda: 1.0,
) -> Generator[tuple[int, int], None, list[float]]:
    """Run all optimiser steps, and yield (steps done, steps in all) after each.

    Between two steps nothing is attached: the model is as it was.

    Args:
        base: frozen base model.
        stack: the adapters, one a document.
        documents: every document's sequences, equally many.
        options: training settings.
        decay: returns what the learning rate is multiplied by in the next step.

    Returns:
        Each document's loss in its last step, in nats a token.
    """
    losses = torch.zeros(len(documents))  # (N,)
    optimizer = torch.optim.AdamW(
        stack.parameters, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    count, per_step = len(documents[0]), options.sequences_per_step
    shuffle = torch.Generator().manual_seed(options.seed)
    starts = range(0, count, per_step)
    # One order for all documents, drawn from the seed alone: a document's sequences come in the
    # same order whoever trains beside it.
    for epoch in range(options.epochs):
        order = torch.randperm(len(starts), generator=shuffle).tolist()
        if not epoch or options.scheme == "paper":
            order = range(len(starts))  # as written
        for number, step in enumerate(order, 1):
            start = starts[step]
            rows = [document[start : start + per_step] for document in documents]
            longest = max(len(sequence.ids) for row in rows for sequence in row)
            with stack, short_attention(base, longest), torch.enable_grad():
                loss = _loss(base, rows, options.loss)  # (N,)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * decay()
            optimizer.step()
            losses = loss.detach()
            yield epoch * len(starts) + number, options.epochs * len(starts)
    return losses.tolist()


def finish(steps: Generator[object, None, Result]) -> Result:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def mean_nll(
    base: BaseModel,
    sequences: Sequence[TrainingSequence],
    document_ids: Sequence[str] | None = None,
    load: Load | None = None,
) -> list[float]:
    """Return the mean NLL of every sequence from its start on, in nats a token.

    Args:
        base: base model.
        sequences: token ids; tokens before `answer_start` are not scored.
        document_ids: whose adapter each sequence is read with; none when omitted.
        load: returns a document's adapter; needed with document_ids.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].ids))  # less padding
    values = [0.0] * len(sequences)
    padding = base.tokenizer.pad_token_id or 0
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        ids, lengths = pad([sequences[i].ids for i in rows], padding)  # (rows, T), (rows,)
        target = labels(ids, [sequences[i].answer_start for i in rows], lengths, IGNORE)
        adapters = None if document_ids is None else [load(document_ids[i]) for i in rows]
        with attached(base, adapters):
            losses = sequence_nll(base, ids, target)  # (rows,)
        for row, loss in zip(rows, losses.tolist(), strict=True):
            values[row] = loss
    return values


def _loss(base: BaseModel, rows: list[list[TrainingSequence]], tokens: str) -> Tensor:
    """Mean next-token loss of each document's sequences, (N,)."""
    flat = [sequence for document in rows for sequence in document]
    ids, lengths = pad([sequence.ids for sequence in flat])  # (rows, T), (rows,)
    # Nothing predicts the first token, so that "all" begins at the second one.
    starts = [sequence.answer_start if tokens == "answer" else 1 for sequence in flat]
    target = labels(ids, starts, lengths, IGNORE)  # (rows, T)
    owner = torch.arange(len(rows)).repeat_interleave(len(rows[0]))  # (rows,), in 0..N - 1
    return next_token_loss(base, ids, target, owner, len(rows))
