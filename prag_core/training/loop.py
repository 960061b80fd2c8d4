"""Training loop: stacked LoRAs and their documents' sequences go in, last losses come out.

Many documents train at once: their A and B are stacked, the frozen base runs one batch over all of
them, and the per-document losses are summed. AdamW is elementwise, so that every document's
adapter equals the one that it would get alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from prag_core.adapters.adapter import Adapter
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.packing import flat, pack, packed_states
from prag_core.model.padding import labels, pad
from prag_core.model.prefix import common_start, prefix_cache, read_prefix
from prag_core.model.token_loss import (
    IGNORE,
    Distillation,
    Taught,
    mean_loss,
    sequence_nll,
    teach,
)
from prag_core.training.options import LoraTrainingOptions
from prag_core.training.sequences import TrainingSequence
from prag_core.training.stacked_lora import StackedLora, short_attention

Result, Step, Said = TypeVar("Result"), TypeVar("Step"), TypeVar("Said")
Load = Callable[[str], Adapter]  # of a document's id
BATCH = 16  # sequences that are scored together
READ_TOGETHER = 32  # sequences that a teacher reads together: a document's questions, mostly
PACKED_TOKENS = 512  # longest sequence that is packed with others


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


def drawn_steps(
    sequences: Sequence[TrainingSequence], steps: int, per_step: int, seed: int
) -> list[TrainingSequence]:
    """Repeat one document's sequences until they fill so many steps, each as often, or once more.

    Those of a step are of similar length, and no copies of one sequence where it can be helped. The
    steps' order is that of the seed: at the same step other documents, too, have long sequences.
    """
    shuffle, count = torch.Generator().manual_seed(seed), steps * per_step
    passes = -(-count // len(sequences))
    orders = [torch.randperm(len(sequences), generator=shuffle).tolist() for _ in range(passes)]
    copies = [i for order in orders for i in order][:count]
    copies.sort(key=lambda i: (-len(sequences[i].ids), i))
    rows = []
    # Copies of a sequence now stand side by side: they are dealt out to as many steps.
    for start in range(0, steps, passes):
        block = copies[start * per_step : (start + passes) * per_step]
        dealt = len(block) // per_step
        rows += [block[place::dealt] for place in range(dealt)]
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    return [sequences[i] for step in order for i in rows[step]]


def scheduled(kind: str, share: float) -> float:
    """Return what the learning rate is multiplied by when a share of all steps is done."""
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return {"constant": 1.0, "linear": 1 - share, "cosine": cosine}[kind]


class EarlyStop:
    """Keeps the adapters of the epoch in which each document's held-out loss was lowest.

    A document stops by its own losses alone: whoever trains beside it goes on without it.
    """

    def __init__(
        self, stack: StackedLora, held_out: Sequence[Sequence[TrainingSequence]], patience: int
    ) -> None:
        """Hold sequences out of every document's training; of some there may be none."""
        self.stack, self.patience, self.epoch = stack, patience, 0
        self.empty = torch.tensor([not row for row in held_out])  # (N,)
        # Every document has as many rows: one that nothing is predicted in fills up.
        filler, most = TrainingSequence((0,), 1), max(map(len, held_out))
        self.rows = [[*row, *[filler] * (most - len(row))] for row in held_out]
        self.lowest = torch.full((len(held_out),), math.inf)  # (N,)
        self.waited = torch.zeros(len(held_out), dtype=torch.long)  # (N,)
        # (N,), of the last step; where no held-out loss is a number there is none.
        self.losses = torch.full((len(held_out),), math.nan, device=stack.base.device)
        self.kept = [tensor.detach().clone() for tensor in stack.parameters]

    @torch.no_grad()
    def measure(self, base: BaseModel, trained: Tensor) -> bool:
        """Measure every document after an epoch; return whether all have stopped.

        Args:
            base: base model.
            trained: losses of the epoch's last step, (N,).
        """
        with self.stack:
            losses = _loss(base, self.rows).cpu()  # (N,)
        self.epoch += 1
        # One that has nothing held out is best in the last epoch.
        losses = losses.where(~self.empty, torch.tensor(-float(self.epoch)))
        going = self.waited < self.patience
        better = going & (losses < self.lowest)
        self.lowest = losses.where(better, self.lowest)
        self.waited = torch.where(better, 0, self.waited + going.long())
        pairs = zip((*self.kept, self.losses), (*self.stack.parameters, trained), strict=True)
        for kept, tensor in pairs:
            rows = better.to(kept.device)
            kept[rows] = tensor[rows]
        return bool((self.waited >= self.patience).all())

    @torch.no_grad()
    def restore(self) -> Tensor:
        """Put back what was kept, and return its losses (N,)."""
        for kept, tensor in zip(self.kept, self.stack.parameters, strict=True):
            tensor.copy_(kept)
        return self.losses


def fit_steps(
    base: BaseModel,
    stack: StackedLora,
    documents: Sequence[Sequence[TrainingSequence]],
    options: LoraTrainingOptions,
    decay: Callable[[float], float] | None = None,
    held_out: Sequence[Sequence[TrainingSequence]] = (),
) -> Generator[tuple[int, int], None, list[float]]:
    """Run all optimiser steps, and yield (steps done, steps in all) after each.

    Between two steps nothing is attached: the model is as it was.

    Args:
        base: frozen base model.
        stack: the adapters, one a document.
        documents: every document's sequences, equally many.
        options: training settings.
        decay: returns what the learning rate is multiplied by when a share of all steps is done;
            that of the options when omitted.
        held_out: every document's sequences that it is stopped by; none when omitted.

    Returns:
        Each document's loss in the last step that its adapter has seen, in nats a token.
    """
    losses = torch.zeros(len(documents))  # (N,)
    optimizer = torch.optim.AdamW(
        stack.parameters, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    count, per_step = len(documents[0]), options.sequences_per_step
    shuffle = torch.Generator().manual_seed(options.seed)
    starts = range(0, count, per_step)
    done, total = 0, options.epochs * len(starts)
    decay = decay or partial(scheduled, options.lr_scheduler_type)
    stop = EarlyStop(stack, held_out, options.patience) if any(held_out) else None
    # One order for all documents, drawn from the seed alone: a document's sequences come in the
    # same order whoever trains beside it.
    for epoch in range(options.epochs):
        order = torch.randperm(len(starts), generator=shuffle).tolist()
        if not epoch or options.scheme == "paper":
            order = range(len(starts))  # as written
        for start in (starts[step] for step in order):
            rows = [document[start : start + per_step] for document in documents]
            with stack, torch.enable_grad():
                loss = _loss(base, rows, options)  # (N,)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * decay(done / total)
            optimizer.step()
            losses, done = loss.detach(), done + 1
            yield done, total
        if stop and stop.measure(base, losses):
            break
    losses = stop.restore() if stop else losses
    return losses.tolist()


def finish(steps: Generator[object, None, Result]) -> Result:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def relayed(
    steps: Generator[Step, None, Result], say: Callable[[Step], Said]
) -> Generator[Said, None, Result]:
    """Do as a generator, and yield what `say` makes of its steps."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        yield say(step)


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


def teach_steps(
    base: BaseModel,
    documents: Sequence[Sequence[TrainingSequence]],
    options: LoraTrainingOptions,
    adapter: Adapter | None = None,
) -> Generator[int, None, list[list[TrainingSequence]]]:
    """Let the base model read every sequence's prompt with the document, once.

    A sequence without such a prompt stays as it is: it is learned from its tokens alone.

    Args:
        base: frozen base model.
        documents: every document's sequences.
        options: training settings.
        adapter: attached to the reader, or None.

    Yields:
        Sequences read so far, after each batch.

    Returns:
        The sequences, each with what the reader says of its answer.
    """
    done, taught = 0, []
    for document in documents:
        kept = dict(enumerate(document))
        for places in _same_beginning(document):
            with attached(base, adapter):
                parts = _teach([document[i] for i in places], base, options.distillation_top_k)
            kept |= {i: replace(document[i], taught=t) for i, t in zip(places, parts, strict=True)}
            done += len(places)
            yield done
        taught.append([kept[i] for i in range(len(document))])
    return taught


def _same_beginning(sequences: Sequence[TrainingSequence]) -> Iterator[list[int]]:
    """Yield batches of places whose prompts share most of their tokens: the document's."""
    batch: list[int] = []
    read = [i for i, sequence in enumerate(sequences) if sequence.reading]
    for i in sorted(read, key=lambda i: sequences[i].reading):
        first, prompt = sequences[batch[0] if batch else i].reading, sequences[i].reading
        if len(batch) == READ_TOGETHER or 2 * common_start(first, prompt) < len(prompt):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _teach(rows: Sequence[TrainingSequence], base: BaseModel, count: int) -> list[Taught]:
    """Read what all prompts begin with once, and then every row's rest."""
    prompts = [row.reading for row in rows]
    # The last token of a prompt is always read: the answer's first one is predicted there.
    shared = min(min(common_start(prompts[0], p), len(p) - 1) for p in prompts)
    rests = [(*p[shared:], *r.ids[r.answer_start :]) for p, r in zip(prompts, rows, strict=True)]
    ids, lengths = pad(rests)  # (rows, T)
    target = labels(ids, [len(prompt) - shared for prompt in prompts], lengths, IGNORE)
    past = None
    if shared:
        prefix = read_prefix(base, prompts[0][:shared])
        past = prefix_cache(base, [prefix] * len(rows), [shared] * len(rows))[0]
    return teach(base, ids, target, count, past)


def _loss(
    base: BaseModel, rows: list[list[TrainingSequence]], options: LoraTrainingOptions | None = None
) -> Tensor:
    """Mean loss of each document's sequences, (N,); without options, NLL of answers alone."""
    states, places = _states(base, rows)
    owned = [(owner, sequence) for owner, document in enumerate(rows) for sequence in document]
    # Where a token is predicted, its id, the document; those that a teacher speaks of apart.
    plain: list[tuple[int, int, int]] = []
    read: list[tuple[int, int, int]] = []
    for (owner, sequence), where in zip(owned, places, strict=True):
        # Nothing predicts the first token, so that "all" begins at the second one.
        start = 1 if options and options.loss == "all" else sequence.answer_start
        pairs = zip(where[start - 1 : -1], sequence.ids[start:], strict=True)
        tokens = read if options and sequence.taught else plain
        tokens += [(at, token, owner) for at, token in pairs]
    if not (options and read):
        return _mean(base, states, plain, len(rows))[0]
    taught = Taught.joined([sequence.taught for _, sequence in owned if sequence.taught])
    reverse = options.distillation_kl == "reverse"
    mixed = Distillation(taught, options.distillation, reverse)
    loss, count = _mean(base, states, read, len(rows), mixed)
    if not plain:
        return loss
    rest, more = _mean(base, states, plain, len(rows))
    return (loss * count + rest * more) / (count + more).clamp(min=1)


def _mean(
    base: BaseModel,
    states: Tensor,
    tokens: Sequence[tuple[int, int, int]],
    count: int,
    mixed: Distillation | None = None,
) -> tuple[Tensor, Tensor]:
    """Return every document's mean loss, (N,), and how many of the tokens are its own, (N,)."""
    found = torch.tensor(tokens, dtype=torch.long, device=base.device).reshape(-1, 3)
    at, target, owners = found.unbind(1)  # (P,)
    loss = mean_loss(base, states[at], target, owners, count, mixed)
    return loss, torch.bincount(owners, minlength=count)


def _states(
    base: BaseModel, rows: list[list[TrainingSequence]]
) -> tuple[Tensor, Sequence[Sequence[int]]]:
    """Return last hidden states (tokens, H), and where in them every sequence's tokens stand.

    Short sequences of one document are packed: what they begin with is computed once.
    """
    blocks = [[sequence.ids for sequence in document] for document in rows]
    alone = [ids for block in blocks for ids in block]
    # A mask of long ones would be large, and a sliding window is not in it.
    window = getattr(base.model.config, "sliding_window", None) or PACKED_TOKENS
    if len(blocks[0]) > 1 and max(map(len, alone)) <= min(window, PACKED_TOKENS):
        packed, places = pack(blocks, 0)
        with short_attention(base, packed.ids.shape[1]):
            states = packed_states(base, packed.to(base.device))
        return states, flat(places, packed.ids.shape[1])
    ids, _ = pad(alone)  # on the right, and attention is causal: no mask is needed
    with short_attention(base, ids.shape[1]):
        read = base.model.model(input_ids=ids.to(base.device), use_cache=False)
    starts = range(0, ids.numel(), ids.shape[1])
    places = [range(start, start + len(row)) for start, row in zip(starts, alone, strict=True)]
    return read.last_hidden_state.flatten(0, 1), places
