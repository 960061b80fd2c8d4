"""Trained path: augmented documents go in, one trained LoRA adapter a document comes out.

Many documents train at once: their A and B are stacked, the frozen base runs one batch over all of
them, and the per-document losses are summed. AdamW is elementwise, so that every document's
adapter equals the one that it would get alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from prag_core.adapter import DTYPES, FFN_MODULES, Adapter, AdapterSpec, fingerprint
from prag_core.augmentation import AugmentedDocument, Augmenter, QAPair
from prag_core.documents import Document
from prag_core.models import BaseModel
from prag_core.stacked_lora import StackedLora, initial_tensors, short_attention
from prag_core.token_loss import IGNORE, next_token_loss
from prag_core.training_sequences import SCHEMES, TrainingSequence, build_sequences

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
            answer, 5 a document) or `recall` (questions without the passage, and its text).
        loss: tokens that carry loss: `all` (paper) or `answer`.
        sequences_per_step: sequences of one document in one optimiser step.
        max_tokens: longer sequences are cut at the front of the passage (2 or more; never more
            than the base model's context).
        documents_per_batch: documents trained together, at most; changes speed and memory only.
        tokens_per_batch: tokens of one step of all of them, at most (one document may have more);
            changes speed and memory only.
        dtype: of the stored adapter.
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
        least = dict.fromkeys(("epochs", "sequences_per_step", *SPEED_OPTIONS), 1)
        least["max_tokens"] = 2
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"got {name} {getattr(self, name)}, expected {minimum} or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"got learning_rate {self.learning_rate}, expected a positive number")


# Su et al., 2025, section 4.1 and its code.
PAPER = LoraTrainingOptions(
    rank=2, learning_rate=3e-4, epochs=1, scheme="paper", loss="all", sequences_per_step=1
)
GLOBAL_STEP = 8  # least sequences in a step of `train_global`: one adapter has many documents


def paper_options(**changes) -> LoraTrainingOptions:
    """Return the settings of Su et al. (2025), with the named changes."""
    return replace(PAPER, **changes)


class LoraTrainer:
    """Parametrizer of the trained path (Su et al., 2025, arXiv 2501.15915, section 3.2)."""

    def __init__(
        self,
        base: BaseModel,
        augmenter: Augmenter,
        options: LoraTrainingOptions | None = None,
        init: Adapter | None = None,
    ) -> None:
        """Prepare the trainer.

        Args:
            base: frozen base model.
            augmenter: makes rewrites and question-answer pairs.
            options: training settings.
            init: adapter that every document starts from; a seeded random one when omitted.

        Raises:
            ValueError: rank, modules or layers that the base model cannot take, or an `init` of
                another spec.
        """
        self.base, self.augmenter = base, augmenter
        self.options = options or LoraTrainingOptions()
        self.batch_size = self.options.documents_per_batch
        layers = self.options.layers or tuple(range(base.num_layers))
        if max(layers) >= base.num_layers:
            raise ValueError(
                f"got layer {max(layers)}, expected layers from 0 to {base.num_layers - 1}"
            )
        self.spec = AdapterSpec(
            base_model=base.fingerprint,
            rank=self.options.rank,
            alpha=self.options.alpha,
            modules=self.options.modules,
            layers=layers,
            dtype=self.options.dtype,
        )
        if self.options.init and init is None:
            raise ValueError(
                f"got the option init {self.options.init!r} alone, expected its adapter too: pass "
                "init=from_peft(options.init, base)"
            )
        if init and replace(init.spec, dtype=self.spec.dtype) != self.spec:
            raise ValueError(
                f"got an initial adapter of {init.spec}, expected {self.spec}: "
                "train it with the same base model, rank, alpha, modules and layers"
            )
        self.init = init.tensors if init else initial_tensors(base, self.spec, self.options.seed)
        quality = {
            key: value
            for key, value in asdict(self.options).items()
            if key not in (*SPEED_OPTIONS, "dtype")
        }
        quality["init"] = fingerprint(init.to_bytes().hex()) if init else "random"
        self.fingerprint = fingerprint(["lora", quality, augmenter.fingerprint])

    def parametrize(self, documents: Sequence[Document]) -> list[Adapter]:
        """Augment the documents and train one adapter each."""
        return [adapter for adapter, _ in self.train(self.augmenter.augment(documents))]

    def train(self, augmented: Sequence[AugmentedDocument]) -> list[tuple[Adapter, float]]:
        """Train one adapter a document and return (adapter, loss of its last step), in order."""
        sequences = [self._sequences(document) for document in augmented]
        results: list = [None] * len(augmented)
        for group in self._groups(sequences):
            stack = StackedLora(self.base, self.spec, self.init, len(group))
            losses = self._fit(stack, [sequences[i] for i in group])
            for row, index in enumerate(group):
                adapter = self._adapter(stack, row, [augmented[index].document])
                results[index] = (adapter, losses[row])
        return results

    def train_global(self, augmented: Sequence[AugmentedDocument]) -> Adapter:
        """Train one adapter on all documents together (the SFT baseline and control).

        Raises:
            ValueError: no documents.
        """
        if not augmented:
            raise ValueError("got no documents to train on, expected some: check the corpus")
        sequences = [s for document in augmented for s in self._sequences(document)]
        order = torch.randperm(
            len(sequences), generator=torch.Generator().manual_seed(self.options.seed)
        )
        stack = StackedLora(self.base, self.spec, self.init, 1)
        per_step = max(self.options.sequences_per_step, GLOBAL_STEP)
        self._fit(stack, [[sequences[i] for i in order.tolist()]], per_step)
        return self._adapter(stack, 0, [document.document for document in augmented])

    def train_warmup(self, pairs: Sequence[QAPair]) -> Adapter:
        """Train one adapter on question-answer pairs alone: the warm-up initialisation.

        It teaches the answer's form (Su et al., 2025, section 4.1); `init` starts documents there.
        """
        nothing = Document("", "warm-up")
        return self.train_global([AugmentedDocument(nothing, (), (pair,)) for pair in pairs])

    def _sequences(self, document: AugmentedDocument) -> list[TrainingSequence]:
        longest = min(self.options.max_tokens, self.base.context_length)
        return build_sequences(self.base.tokenizer, document, self.options.scheme, longest)

    def _groups(self, sequences: list[list[TrainingSequence]]) -> Iterator[list[int]]:
        """Group documents of equal step count and similar length (less padding)."""

        def cost(index: int) -> tuple[int, int]:
            return len(sequences[index]), max(len(s.ids) for s in sequences[index])

        options = self.options
        order = sorted(range(len(sequences)), key=cost)
        group: list[int] = []
        for index in order:
            count, longest = cost(index)
            tokens = (len(group) + 1) * min(count, options.sequences_per_step) * longest
            full = len(group) == options.documents_per_batch or tokens > options.tokens_per_batch
            if group and (full or len(sequences[group[0]]) != len(sequences[index])):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _fit(self, stack: StackedLora, documents: list, per_step: int | None = None) -> list[float]:
        """Run all optimiser steps; returns each document's loss in its last step."""
        options, losses = self.options, torch.zeros(len(documents))
        per_step = per_step or options.sequences_per_step
        optimizer = torch.optim.AdamW(
            stack.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        count = len(documents[0])
        shuffle = torch.Generator().manual_seed(options.seed)
        longest = max(len(sequence.ids) for document in documents for sequence in document)
        with stack, short_attention(self.base, longest):
            for epoch in range(options.epochs):
                order = torch.randperm(count, generator=shuffle).tolist()
                order = order if epoch else list(range(count))
                for start in range(0, count, per_step):
                    rows = [[d[i] for i in order[start : start + per_step]] for d in documents]
                    loss = self._loss(rows)  # (N,)
                    optimizer.zero_grad(set_to_none=True)
                    loss.sum().backward()
                    optimizer.step()
                    losses = loss.detach()
        return losses.tolist()

    def _loss(self, rows: list[list[TrainingSequence]]) -> Tensor:
        """Mean next-token loss of each document's sequences, (N,)."""
        flat = [sequence for document in rows for sequence in document]
        length = max(len(sequence.ids) for sequence in flat)
        ids = torch.zeros(len(flat), length, dtype=torch.long)
        labels = torch.full((len(flat), length), IGNORE)
        for row, sequence in enumerate(flat):
            first = sequence.answer_start if self.options.loss == "answer" else 1
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            labels[row, first : len(sequence.ids)] = ids[row, first : len(sequence.ids)]
        owner = torch.arange(len(rows)).repeat_interleave(len(rows[0]))
        return next_token_loss(self.base, ids, labels, owner, len(rows))

    def _adapter(self, stack: StackedLora, row: int, documents: list[Document]) -> Adapter:
        identifier = "+".join(document.id for document in documents[:3])
        metadata = {"document_id": identifier, "title": documents[0].title, "path": "trained"}
        return Adapter(self.spec, stack.tensors(row, DTYPES[self.spec.dtype]), metadata)
