"""Options of the trained path and of the reader; importing them loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from prag_core.adapters.names import FFN_MODULES, INT8
from prag_core.model.wordings import Wording, find_wording

SCHEMES = ("paper", "recall")
AUTO_INIT = "auto"
GENERATED_INIT = "generated"
SCHEDULES = ("constant", "linear", "cosine")
LEAST_ONE = ("epochs", "patience", "sequences_per_step", "distillation_top_k",
             "documents_per_batch", "tokens_per_batch")  # fmt: skip
SPEED_OPTIONS = ("documents_per_batch", "tokens_per_batch")  # they leave the adapters as they are
TRAINING = "training.json"  # beside what `prag warmup` and `prag writer` trained: how it was made


def require_counts(**counts: int) -> None:
    """Raise ValueError for a number below 0, by its option's name."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"got {name} {count}, expected 0 or more: correct it")


@dataclass(frozen=True)
class LoraTrainingOptions:
    """Settings of the trained path, chosen on SQuAD train for the embedded model (README.md).

    `PAPER` has the paper's.

    Attributes:
        rank: LoRA rank r.
        alpha: LoRA alpha; the update is alpha / rank * B A.
        modules: FFN matrices that get a LoRA.
        layers: decoder layers that get one; all when empty.
        learning_rate: of AdamW, in the first step; 0: the base model's (`learning_rates.py`).
        lr_scheduler_type: how it goes on: `constant` (paper), or down to 0 over all steps, `linear`
            or `cosine`.
        weight_decay: of AdamW.
        epochs: passes over the sequences, at most: of one adapter of many documents (a warm-up),
            and of a document's where `max_steps` is 0.
        max_steps: optimiser steps of a document, whatever the number of its sequences, which come
            in turn: documents of any number of sequences train side by side. 0: as many as the
            epochs have.
        held_out: share of a document's question-answer pairs that it is not trained on but measured
            by after every epoch; its adapter is that of the epoch of their lowest loss. 0: none
            (paper).
        patience: epochs without a lower loss after which a document's training ends, where pairs
            are held out.
        scheme: which sequences a document makes: `paper` (Su et al., 2025: passage, question and
            answer, 5 a document, in this order in every epoch; see prag_core/training/README.md)
            or `recall` (questions without the passage, and its text).
        continuations: in the scheme `recall`, also every sentence behind the one before it, and
            every fact behind the title (`augmentation.facts`), each a sequence of its own.
        loss: tokens that carry loss: `all` (paper) or `answer`.
        distillation: share of the loss that is the distance (KL) to the base model, the warm-up's
            shared rows included, that reads the document; the rest is that of the tokens as they
            stand. Of questions, texts and continuations alike (scheme `recall`, loss `answer`).
            What the context has no room for beside the document is trained on the tokens alone, and
            so is, for `epochs`, the one adapter of mode `sft`.
        teacher: PEFT folder of the LoRA that the reading model has for `distillation` (see `prag
            reader`); `auto`: the one that is shipped for the base model, where there is one; empty
            or none: what documents share, where they do.
        distillation_kl: `forward`, KL(reading || adapter), or `reverse`.
        distillation_top_k: tokens whose probability by reading is kept; all others count as one.
        prompt: name of the wording that questions are asked in, or one of your own (see
            `prag_core.model.wordings`); `paper` or `paper_cot` for the scheme `paper`.
        sequences_per_step: sequences of one document in one optimiser step.
        max_tokens: longer sequences are cut at the front of the passage (2 or more; never more
            than the base model's context).
        documents_per_batch: documents trained together, at most; changes speed and memory only.
        tokens_per_batch: tokens of one step of all of them, at most (one document may have more);
            changes speed and memory only.
        dtype: of the stored adapter; `int8` has a scale a row, and is stored in packs, not as PEFT
            folders (`prag store export` writes these).
        seed: of the initialisation and the order of sequences, the same for every document.
        init: folder of a PEFT adapter to start from (warm-up initialisation); `auto`: the one that
            is shipped for the base model, where there is one; `generated`: the hypernetwork's
            adapter of each document, of which B is trained. `rank` is then rows a module on
            average, 32 say, and modules, layers and scale are the hypernetwork's; empty or none: a
            random start.
        init_shared: keep its rows as they are, beside `rank` rows of the document's own that start
            at random: what all documents share (the answer's format), counted once in a merge. It
            may have another rank then.
    """

    rank: int = 8
    alpha: float = 32
    modules: tuple[str, ...] = FFN_MODULES
    layers: tuple[int, ...] = ()
    learning_rate: float = 0.0
    lr_scheduler_type: str = "constant"
    weight_decay: float = 0.0
    epochs: int = 5
    max_steps: int = 16
    held_out: float = 0.0
    patience: int = 1
    scheme: str = "recall"
    continuations: bool = False
    loss: str = "answer"
    distillation: float = 0.5
    teacher: str = AUTO_INIT
    distillation_kl: str = "forward"
    distillation_top_k: int = 20
    prompt: str | Wording = "short"
    sequences_per_step: int = 4
    max_tokens: int = 3000
    documents_per_batch: int = 16
    tokens_per_batch: int = 4096
    dtype: str = INT8
    seed: int = 0
    init: str = AUTO_INIT
    init_shared: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        for name, choices in (
            ("scheme", SCHEMES),
            ("loss", ("all", "answer")),
            ("lr_scheduler_type", SCHEDULES),
            ("distillation_kl", ("forward", "reverse")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"got {name} {getattr(self, name)!r}, expected one of {list(choices)}"
                )
        find_wording(self.prompt)
        least = dict.fromkeys(LEAST_ONE, 1)
        least["max_tokens"] = 2
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"got {name} {getattr(self, name)}, expected {minimum} or more")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(
                f"got learning_rate {self.learning_rate}, expected a positive number, or 0 for the "
                "base model's"
            )
        distilled = self.distillation and (self.scheme != "recall" or self.loss != "answer")
        if distilled or not 0 <= self.distillation <= 1:
            raise ValueError(
                f"got distillation {self.distillation} with scheme {self.scheme} and loss "
                f"{self.loss}, expected a share from 0 to 1, and above 0 scheme recall and loss "
                "answer: what is trained with the passage in its prompt has no reader to learn "
                "from (set training.distillation 0)"
            )
        if self.teacher not in ("", AUTO_INIT) and not self.distillation:
            raise ValueError(
                f"got teacher {self.teacher!r} with distillation 0, expected more: set "
                "training.distillation, or leave the teacher out"
            )
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"got held_out {self.held_out}, expected a share from 0 to 0.5")
        if self.max_steps < 0 or (self.max_steps and (self.held_out or self.scheme == "paper")):
            raise ValueError(
                f"got max_steps {self.max_steps} with held_out {self.held_out} and scheme "
                f"{self.scheme}, expected 0, or more without held_out in the scheme recall: it has "
                "no epochs, which the other two go by (set training.max_steps 0)"
            )

    def for_peft(self) -> LoraTrainingOptions:
        """Return the settings of what becomes a PEFT folder, which has no int8."""
        return replace(self, dtype="bfloat16") if self.dtype == INT8 else self


@dataclass(frozen=True)
class ReaderOptions:
    """How the reader is trained.

    Attributes:
        learning_rates: tried side by side, the same steps each; the best one goes on.
        batch: sequences of one step.
        race: share of the time that the learning rates are tried in. From then on the learning rate
            falls to 0 over the rest.
        max_hours: time of the whole training, at most.
        every: steps between two measurements of the held-out loss.
        patience: measurements without a gain of 0.5 % after which the loss is flat: training ends.
        questions: drawn to train on; 0: all.
        held_out_articles: articles, by title, that are not trained on.
        held_out_questions: drawn from these, for the held-out loss.
        max_tokens: longer questions with passage and answer are left out.
        seed: of all draws.
    """

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    batch: int = 8
    race: float = 0.3
    max_hours: float = 2.0
    every: int = 80
    patience: int = 5
    questions: int = 20_000
    held_out_articles: int = 20
    held_out_questions: int = 128
    max_tokens: int = 384
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        counts = ("batch", "every", "patience", "held_out_articles", "held_out_questions")
        sizes = [getattr(self, name) for name in (*counts, "max_tokens")]
        rates = self.learning_rates and min(self.learning_rates) > 0
        different = len({*self.learning_rates}) == len(self.learning_rates)
        shares = 0 < self.race <= 1 and self.max_hours > 0 and self.questions >= 0
        if not (rates and different and shares and min(sizes) >= 1):
            raise ValueError(
                f"got {self}, expected different positive learning rates, a race from above 0 to "
                "1, more than 0 hours, and 1 or more of all else (questions: 0 or more)"
            )
