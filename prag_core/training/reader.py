"""Reader: questions with their gold passage go in; one LoRA that answers from passages comes out.

    question set -> held out by article -> sequences -> a race of learning rates -> the best goes on

The baseline of what supervision alone gives: the base model, fine-tuned on the questions that a
parametrizer may learn from, but with the passage in its prompt.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.model.prompts import question_prompt
from prag_core.training.initial import READER
from prag_core.training.loop import fit_steps, mean_nll, similar_steps
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import ReaderOptions
from prag_core.training.sequences import TrainingSequence, encode

EPOCHS = 1 << 30  # more than any time is enough for: time or a flat loss ends the training
GAIN = 0.005  # share of the held-out loss; what gains less is flat


@dataclass(frozen=True)
class ReaderSequences:
    """What the reader is trained and measured on.

    Attributes:
        training: prompts with passage and answer.
        held_out: the same of other articles.
        articles: titles of the latter.
        too_long: questions that were left out for their length.
    """

    training: list[TrainingSequence]
    held_out: list[TrainingSequence]
    articles: list[str]
    too_long: int


@dataclass(frozen=True)
class Measured:
    """The held-out loss of one learning rate at one time.

    Attributes:
        learning_rate: at the start.
        step: optimiser steps done.
        seconds: since the training began.
        held_out_loss: of answers' tokens, in nats a token, mean over questions.
        adapter: of this step, where no loss before was as low.
        stopped: "" while training goes on, then `flat` or `time`.
    """

    learning_rate: float
    step: int
    seconds: float
    held_out_loss: float
    adapter: Adapter | None = None
    stopped: str = ""


def reader_sequences(
    trainer: LoraTrainer, question_set: QuestionSet, options: ReaderOptions, left_out: LeaveOut
) -> ReaderSequences:
    """Split a question set by article and write the prompts with gold passages.

    Args:
        trainer: its wording is what questions are asked in.
        question_set: questions with gold documents and answers.
        options: of the training.
        left_out: articles and relations that are neither trained on nor held out.

    Raises:
        ValueError: too few articles or questions.
    """
    known, draw = question_set.documents_by_id, random.Random(options.seed)
    by_article: dict[str, list[Question]] = {}  # a question over two documents is in both
    for question in left_out.questions(question_set):
        for name in dict.fromkeys(known[i].title or i for i in question.gold_ids):
            by_article.setdefault(name, []).append(question)
    names = sorted(by_article)
    if len(names) <= options.held_out_articles:
        raise ValueError(
            f"got {len(names)} articles with questions in {question_set.name}, expected more than "
            f"the {options.held_out_articles} that are held out: bring more, or lower "
            "--reading.held_out_articles"
        )
    held_out = sorted(draw.sample(names, options.held_out_articles))
    others = [*{q.id: q for name in held_out for q in by_article[name]}.values()]
    asked = {q.id for q in others}  # about an article that is held out, whatever else about
    rest = [*{q.id: q for name in names for q in by_article[name] if q.id not in asked}.values()]
    rest = draw.sample(rest, min(options.questions or len(rest), len(rest)))
    others = draw.sample(others, min(options.held_out_questions, len(others)))
    rows = [[_sequence(trainer, question_set, q) for q in part] for part in (rest, others)]
    limit = min(options.max_tokens, trainer.base.context_length)
    # Left out, not cut: the answer may stand in the part that would be cut off.
    training, measured = ([s for s in part if len(s.ids) <= limit] for part in rows)
    too_long = len(rest) + len(others) - len(training) - len(measured)
    if not training or not measured:
        raise ValueError(
            f"got {too_long} questions of more than {limit} tokens, with their passage, and "
            "hardly any other, expected some to train on: raise --reading.max_tokens"
        )
    return ReaderSequences(training, measured, held_out, too_long)


def _sequence(trainer: LoraTrainer, whole: QuestionSet, question: Question) -> TrainingSequence:
    tokenizer = trainer.base.tokenizer
    passages = [whole.documents_by_id[i] for i in question.gold_ids]
    prompt = question_prompt(tokenizer, question.question, passages, trainer.wording)
    return encode(tokenizer, prompt, question.golden_answers[0])


def train_reader(
    trainer: LoraTrainer, sequences: ReaderSequences, options: ReaderOptions
) -> Iterator[Measured]:
    """Train until the held-out loss is flat or the time is over; yields every measurement.

    All learning rates train on the same steps in turn; when their time is over, the one of the
    lowest held-out loss goes on alone.

    Raises:
        ValueError: all of them diverged.
    """
    clock = _Clock(options)
    ordered = similar_steps(sequences.training, options.batch, options.seed)
    runs = [_Run(trainer, rate, ordered, options, clock) for rate in options.learning_rates]
    lowest, stopped = float("inf"), ""
    while not stopped:
        for run in runs:
            run.advance()
            loss = run.measure(sequences.held_out)
            best = run.adapter() if loss < lowest else None
            lowest = min(lowest, loss)
            stopped = _stops(runs, run, options, clock)
            seconds = round(clock.seconds, 1)
            yield Measured(run.learning_rate, run.step, seconds, loss, best, stopped)
        if clock.left <= 1 - options.race:  # the end of the race
            if lowest == float("inf"):
                raise ValueError(
                    f"got no held-out loss that is a number with the learning rates "
                    f"{list(options.learning_rates)}, expected one: lower --reading.learning_rates"
                )
            # A loss that is no number is the worst: no comparison with it is true.
            runs = [min(runs, key=lambda run: (math.isnan(run.losses[-1]), run.losses[-1]))]


def _stops(runs: Sequence[_Run], run: _Run, options: ReaderOptions, clock: _Clock) -> str:
    """Say why training ends after this run's measurement; empty while it goes on."""
    if run is not runs[-1]:
        return ""  # the others of the round are measured too
    if clock.left <= 0:
        return "time"
    before, after = run.losses[: -options.patience], run.losses[-options.patience :]
    flat = bool(before) and min(after) > (1 - GAIN) * min(before)
    return "flat" if flat and len(runs) == 1 else ""


@dataclass(frozen=True)
class _Clock:
    """The time that a training has."""

    options: ReaderOptions
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Share of all time that is left."""
        return 1 - self.seconds / (3600 * self.options.max_hours)

    def decay(self, share: float) -> float:
        """Return what the learning rate is multiplied by: 1 in the race, then down to 0.

        By the time that is left, whatever share of all steps is done.
        """
        rest = 1 - self.options.race
        return max(0.0, min(1.0, self.left / rest)) if rest else 1.0


class _Run:
    """One learning rate: its LoRA, and the held-out losses so far."""

    def __init__(
        self,
        trainer: LoraTrainer,
        learning_rate: float,
        ordered: list[TrainingSequence],
        options: ReaderOptions,
        clock: _Clock,
    ) -> None:
        self.trainer, self.learning_rate, self.every = trainer, learning_rate, options.every
        self.stack = trainer.stack()
        settings = replace(
            trainer.options, learning_rate=learning_rate, epochs=EPOCHS, loss="answer",
            sequences_per_step=options.batch, seed=options.seed,
        )  # fmt: skip
        self.steps = fit_steps(trainer.base, self.stack, [ordered], settings, clock.decay)
        self.step, self.losses = 0, list[float]()

    def advance(self) -> None:
        """Do the steps up to the next measurement."""
        for _ in range(self.every):
            next(self.steps)
        self.step += self.every

    def measure(self, sequences: Sequence[TrainingSequence]) -> float:
        """Measure the held-out loss and keep it."""
        # The trained tensors stand in the stack: it is attached as in a training step.
        with self.stack:
            loss = fmean(mean_nll(self.trainer.base, sequences))
        self.losses.append(loss)
        return loss

    def adapter(self) -> Adapter:
        """Return the LoRA as it is now."""
        return self.trainer.adapter(self.stack, 0, READER, READER, READER)
