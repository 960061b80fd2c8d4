"""Training loop: stacked LoRAs and their documents' sequences go in, last losses come out.

Many documents train at once: their A and B are stacked, the frozen base runs one batch over all of
them, and the per-document losses are summed. AdamW is elementwise, so that every document's
adapter equals the one that it would get alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from prag_core.adapters.adapter import FFN_MODULES
from prag_core.model.base_model import BaseModel
from prag_core.model.padding import labels, pad
from prag_core.model.token_loss import IGNORE, next_token_loss
from prag_core.model.wordings import Wording, find_wording
from prag_core.training.sequences import SCHEMES, TrainingSequence
from prag_core.training.stacked_lora import StackedLora, short_attention

Result = TypeVar("Result")
SPEED_OPTIONS = ("documents_per_batch", "tokens_per_batch")  # they leave the adapters as they are


@dataclass(frozen=True)
class LoraTrainingOptions:
    """Settings of the trained path, chosen for the embedded model; `PAPER` has the paper's.

    Attributes:
        rank: LoRA rank r.
        alpha: LoRA alpha; the update is alpha / rank * B A.
        modules: FFN matrices that get a LoRA.
        layers: decoder layers that get one; all when empty.
        learning_rate: of AdamW, constant.
        weight_decay: of AdamW.
        epochs: passes over a document's sequences.
        scheme: which sequences a document makes: `paper` (Su et al., 2025: passage, question and
            answer, 5 a document, in this order in every epoch; see prag_core/training/README.md)
            or `recall` (questions without the passage, and its text).
        loss: tokens that carry loss: `all` (paper) or `answer`.
        prompt: name of the wording that questions are asked in, or one of your own (see
            `prag_core.model.wordings`); `paper` or `paper_cot` for the scheme `paper`.
        sequences_per_step: sequences of one document in one optimiser step.
        max_tokens: longer sequences are cut at the front of the passage (2 or more; never more
            than the base model's context).
        documents_per_batch: documents trained together, at most; changes speed and memory only.
        tokens_per_batch: tokens of one step of all of them, at most (one document may have more);
            changes speed and memory only.
        dtype: of the stored adapter; `int8` has a scale a row.
        seed: of the initialisation and the order of sequences, the same for every document.
        init: folder of a PEFT adapter to start from (warm-up initialisation), or empty.
    """

    rank: int = 8
    alpha: float = 32
    modules: tuple[str, ...] = FFN_MODULES
    layers: tuple[int, ...] = ()
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    epochs: int = 5
    scheme: str = "recall"
    loss: str = "answer"
    prompt: str | Wording = "short"
    sequences_per_step: int = 1
    max_tokens: int = 3000
    documents_per_batch: int = 16
    tokens_per_batch: int = 4096
    dtype: str = "bfloat16"
    seed: int = 0
    init: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        if self.scheme not in SCHEMES:
            raise ValueError(f"got scheme {self.scheme!r}, expected one of {list(SCHEMES)}")
        if self.loss not in ("all", "answer"):
            raise ValueError(f"got loss {self.loss!r}, expected 'all' or 'answer'")
        find_wording(self.prompt)
        least = dict.fromkeys(("epochs", "sequences_per_step", *SPEED_OPTIONS), 1)
        least["max_tokens"] = 2
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"got {name} {getattr(self, name)}, expected {minimum} or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"got learning_rate {self.learning_rate}, expected a positive number")


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


def _loss(base: BaseModel, rows: list[list[TrainingSequence]], tokens: str) -> Tensor:
    """Mean next-token loss of each document's sequences, (N,)."""
    flat = [sequence for document in rows for sequence in document]
    ids, lengths = pad([sequence.ids for sequence in flat])  # (rows, T), (rows,)
    # Nothing predicts the first token, so that "all" begins at the second one.
    starts = [sequence.answer_start if tokens == "answer" else 1 for sequence in flat]
    target = labels(ids, starts, lengths, IGNORE)  # (rows, T)
    owner = torch.arange(len(rows)).repeat_interleave(len(rows[0]))  # (rows,), in 0..N - 1
    return next_token_loss(base, ids, target, owner, len(rows))
