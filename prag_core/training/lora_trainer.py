"""Trained path: augmented documents go in, one trained LoRA adapter a document comes out."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace

from prag_core.adapters.adapter import Adapter, AdapterSpec, Parametrizer, fingerprint, hash_adapter
from prag_core.augmentation.augmented import AugmentedDocument, Augmenter, QAPair
from prag_core.augmentation.question_lists import list_prompt, write_list
from prag_core.corpus.documents import Document, as_documents
from prag_core.model.base_model import BaseModel
from prag_core.model.prompts import prompt_id
from prag_core.model.wordings import find_wording
from prag_core.training.initial import WRITER
from prag_core.training.learning_rates import learning_rate
from prag_core.training.loop import (
    drawn_steps,
    finish,
    fit_steps,
    group_documents,
    relayed,
    similar_steps,
    teach_steps,
)
from prag_core.training.options import AUTO_INIT, SPEED_OPTIONS, LoraTrainingOptions
from prag_core.training.sequences import (
    TrainingSequence,
    build_sequences,
    encode,
    hold_out,
)
from prag_core.training.stacked_lora import StackedLora, initial_adapter

log = logging.getLogger(__name__)

# Su et al., 2025, section 4.1 and its code (README.md beside this file). The weight decay is the
# default of torch's AdamW, which their code leaves as it is.
PAPER = LoraTrainingOptions(
    rank=2,
    learning_rate=3e-4,
    weight_decay=0.01,
    epochs=1,
    max_steps=0,
    scheme="paper",
    loss="all",
    distillation=0,
    prompt="paper",
    sequences_per_step=1,
    dtype="float32",
    init="",
    init_shared=False,
)
GLOBAL_STEP = 8  # least sequences in a step of `train_global`: one adapter has many documents


def pairs_alone(pairs: tuple[QAPair, ...]) -> AugmentedDocument:
    """Return what makes sequences of pairs alone: no text, no recitation (`build_sequences`)."""
    return AugmentedDocument(Document("", "warm-up"), (), pairs)


def paper_options(**changes) -> LoraTrainingOptions:
    """Return the settings of Su et al. (2025), with the named changes."""
    return replace(PAPER, **changes)


def _require_finite(stack: StackedLora, row: int, loss: float, name: str) -> None:
    """Raise ValueError for a row of a stack whose training left the numbers."""
    if math.isfinite(loss) and all(tensor[row].isfinite().all() for tensor in stack.parameters):
        return
    raise ValueError(
        f"got an adapter of {name} whose training diverged (loss {loss}), expected finite "
        "numbers: lower training.learning_rate"
    )


class LoraTrainer:
    """Parametrizer of the trained path (Su et al., 2025, arXiv 2501.15915, section 3.2)."""

    def __init__(
        self,
        base: BaseModel,
        augmenter: Augmenter,
        options: LoraTrainingOptions | None = None,
        init: Adapter | Parametrizer | None = None,
        teacher: Adapter | None = None,
    ) -> None:
        """Prepare the trainer.

        Args:
            base: frozen base model.
            augmenter: makes rewrites and question-answer pairs.
            options: training settings.
            init: adapter that every document starts from, or shares (`options.init_shared`); a
                seeded random one when omitted, also where `options.init` is `auto`, which
                `pipeline.parts.trained` loads. Or what generates a start for every document
                (`options.init` is `generated`): its spec holds, and only B is trained, so that the
                rows still answer to the document's keys.
            teacher: adapter of the reading model that is learned from (`options.teacher`; `auto` as
                above); none when omitted.

        Raises:
            ValueError: rank, modules or layers that the base model cannot take, an `init` of
                another spec, or options that name an adapter that is not given.
        """
        self.base, self.augmenter, self.teacher = base, augmenter, teacher
        options = options or LoraTrainingOptions()
        self.options = replace(options, learning_rate=options.learning_rate or learning_rate(base))
        # Counted steps are one pass over what `_ordered` returns.
        counted = {"epochs": 1} if self.options.max_steps else {}
        self.passes = replace(self.options, **counted)
        self.batch_size = self.options.documents_per_batch
        self.wording = find_wording(self.options.prompt)
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
        for name, given in (("init", init), ("teacher", teacher)):
            if (named := getattr(self.options, name)) not in ("", AUTO_INIT) and given is None:
                raise ValueError(
                    f"got training.{name} {named!r} without its adapter, expected both: pass "
                    f"{name}=load_adapter(...), or leave training.{name} out (prag warmup, writer "
                    "and reader take none)"
                )
        # Only what changes the adapters (the dtype stands in the spec): a store that was filled in
        # batches of another size stays valid.
        quality = asdict(self.options)
        for name in (*SPEED_OPTIONS, "dtype"):
            del quality[name]
        quality["prompt"], quality["init"] = self.wording.id, "random"
        quality["teacher"] = hash_adapter(teacher) if teacher else ""
        self.generator = None if isinstance(init, Adapter) else init
        if self.generator:
            self.spec = replace(self.generator.spec, dtype=self.options.dtype)
            quality["init"] = ["generated", self.generator.fingerprint]
        elif init:
            self._require_start(init)
            # By its weights, not by the folder that they came from.
            quality["init"] = hash_adapter(init)
        # What one adapter of many documents starts from, and every document without a generator.
        if isinstance(init, Adapter) and not self.options.init_shared:
            self.start = replace(init, spec=self.spec)
        else:
            shared = init if isinstance(init, Adapter) else None
            self.start = initial_adapter(base, self.spec, self.options.seed, shared)
        self.fingerprint = fingerprint(["lora", quality, augmenter.fingerprint])

    def parametrize(self, documents: Sequence[Document]) -> list[Adapter]:
        """Augment the documents and train one adapter each."""
        return [
            adapter for adapter, _ in self.train(self.augmenter.augment(as_documents(documents)))
        ]

    def train(self, augmented: Sequence[AugmentedDocument]) -> list[tuple[Adapter, float]]:
        """Train one adapter a document and return (adapter, loss of its last step), in order."""
        return finish(self.train_steps(augmented))

    def train_steps(
        self, augmented: Sequence[AugmentedDocument]
    ) -> Generator[tuple[int, int], None, list[tuple[Adapter, float]]]:
        """Do as `train`, and yield (steps done, steps in all of the group) after each step.

        A server runs it between two decoding steps.
        """
        options = self.options
        for one in augmented:
            if one.error and not one.qa_pairs:
                log.warning("%s: %s", one.document.title or one.document.id, one.error)
        parted = [hold_out(document, options.held_out) for document in augmented]
        sequences = [self._sequences(document) for document, _ in parted]
        ended = options.scheme != "paper"  # as the pairs that are trained on
        held_out = [
            self._sequences(pairs_alone(pairs), ended) if pairs else [] for _, pairs in parted
        ]
        starts = self._starts([document.document for document in augmented])
        results: list = [None] * len(augmented)  # groups come in another order than documents
        for group in group_documents([self._ordered(s) for s in sequences], options):
            stack = self.stack([starts[i] for i in group])
            rows = [sequences[i] for i in group]
            held = [held_out[i] for i in group]
            if options.distillation:
                reading = teach_steps(self.base, rows, options, self.teacher or stack.shared)
                count = len(self._ordered(rows[0]))
                all_steps = self.passes.epochs * -(-count // options.sequences_per_step)
                rows = yield from relayed(reading, lambda _, steps=all_steps: (0, steps))
            rows = [self._ordered(row) for row in rows]
            losses = yield from fit_steps(self.base, stack, rows, self.passes, held_out=held)
            for row, index in enumerate(group):
                document = augmented[index].document
                _require_finite(stack, row, losses[row], document.title or document.id)
                adapter = self.adapter(stack, row, document.id, document.title)
                results[index] = (adapter, losses[row])
        return results

    def _ordered(self, sequences: list[TrainingSequence]) -> list[TrainingSequence]:
        """Return a document's sequences as its steps have them, where steps are counted."""
        options = self.options
        if not options.max_steps:
            return sequences
        return drawn_steps(sequences, options.max_steps, options.sequences_per_step, options.seed)

    def train_global(self, augmented: Sequence[AugmentedDocument]) -> Adapter:
        """Train one adapter on all documents together (the SFT baseline and control).

        Raises:
            ValueError: no documents.
        """
        if not augmented:
            raise ValueError("got no documents to train on, expected some: check the corpus")
        # Three name a global adapter well enough; a corpus has thousands.
        name = "+".join(document.document.id for document in augmented[:3])
        sequences = [s for document in augmented for s in self._sequences(document)]
        return self._train_one(sequences, name, augmented[0].document.title)

    def _train_one(
        self, sequences: Sequence[TrainingSequence], name: str, title: str, path: str = "trained"
    ) -> Adapter:
        """Train one adapter on all sequences; steps are of similar length."""
        per_step = self.options.sequences_per_step
        if self.options.scheme != "paper":
            per_step = max(per_step, GLOBAL_STEP)
        stack = self.stack()
        options = replace(self.options, sequences_per_step=per_step)
        steps = similar_steps(sequences, per_step, options.seed)
        (loss,) = finish(fit_steps(self.base, stack, [steps], options))
        _require_finite(stack, 0, loss, title or name)
        return self.adapter(stack, 0, name, title, path)

    def train_warmup(self, pairs: Sequence[QAPair]) -> Adapter:
        """Train one adapter on question-answer pairs alone: the warm-up initialisation.

        It teaches the answer's form (Su et al., 2025, section 4.1), its end included; `init` starts
        documents there.
        """
        return self.train_global([pairs_alone((pair,)) for pair in pairs])

    def train_writer(
        self, documents: Sequence[Document], pairs: Sequence[Sequence[QAPair]]
    ) -> Adapter:
        """Train one adapter that asks questions about a document in the prompt (`ListAugmenter`).

        Args:
            documents: what is asked about.
            pairs: people's questions about each, in the order of the text.

        Raises:
            ValueError: no document fits into `max_tokens` and the context.
        """
        limit = min(self.options.max_tokens, self.base.context_length)
        rows = (
            encode(self.base.tokenizer, list_prompt(self.base, document), write_list(asked))
            for document, asked in zip(documents, pairs, strict=True)
        )
        # Left out, not cut: of a passage without its beginning nobody asked these questions.
        fitting = [row for row in rows if len(row.ids) <= limit]
        if len(fitting) < len(documents):
            found = f"got {len(documents) - len(fitting)} of {len(documents)} documents"
            problem = f"{found} of more than {limit} tokens with their questions"
            if not fitting:
                raise ValueError(f"{problem}, expected shorter ones: raise training.max_tokens")
            warnings.warn(f"{problem}, which are left out", stacklevel=2)
        return self._train_one(fitting, *[WRITER] * 3)

    def _sequences(
        self, document: AugmentedDocument, ended: bool | None = None
    ) -> list[TrainingSequence]:
        options = self.options
        limit = min(options.max_tokens, self.base.context_length)
        reading = self.base.context_length if options.distillation else 0
        more = {"continuations": options.continuations, "reading": reading, "ended": ended}
        how = options.scheme, limit, self.wording
        return build_sequences(self.base.tokenizer, document, *how, **more)

    def stack(self, starts: Sequence[Adapter] = ()) -> StackedLora:
        """Return what documents start from, one row each; without starts, one row."""
        generated = self.generator is not None and bool(starts)
        return StackedLora(self.base, starts or [self.start], train_a=not generated)

    def adapter(
        self, stack: StackedLora, row: int, document_id: str, title: str, path: str = "trained"
    ) -> Adapter:
        """Return the LoRA of one row of a stack as it is now, the shared rows behind its own."""
        metadata = {"document_id": document_id, "title": title, "path": path,
                    "prompt": prompt_id(self.wording, tokenizer=self.base.tokenizer)}  # fmt: skip
        return stack.adapter(row, metadata)

    def _starts(self, documents: Sequence[Document]) -> list[Adapter]:
        """Return what each document starts from."""
        if self.generator is None:
            return [self.start] * len(documents)
        made = self.generator.parametrize(documents)
        return [replace(adapter, spec=self.spec) for adapter in made]

    def _require_start(self, init: Adapter) -> None:
        """Raise ValueError unless an adapter fits as the start of every document."""
        # The dtype may differ: training is in float32 whatever is stored. So may rank and scale of
        # rows that are not trained.
        free = {"dtype": self.spec.dtype}
        if self.options.init_shared:
            free |= {"rank": self.spec.rank, "alpha": self.spec.alpha}
        if replace(init.spec, **free) != self.spec:
            raise ValueError(
                f"got an initial adapter of {init.spec}, expected {self.spec}: "
                "train it with the same base model, rank, alpha, modules and layers, or start at "
                "random (training.init '')"
            )
