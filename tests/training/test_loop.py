"""Schedule and early stop: what a document ends with, whoever trains beside it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.model.packing import pack
from prag_core.training import loop, lora_trainer
from prag_core.training.loop import EarlyStop, drawn_steps, finish, scheduled, teach_steps
from prag_core.training.lora_trainer import LoraTrainer, paper_options
from prag_core.training.options import LoraTrainingOptions
from prag_core.training.sequences import TrainingSequence, hold_out
from prag_core.training.stacked_lora import StackedLora

AUGMENTER = SimpleNamespace(fingerprint="fixed")
OPTIONS = paper_options(scheme="recall", loss="answer", learning_rate=3e-3)
PAIRS = tuple(QAPair(f"What is {i}?", f"Value {i}") for i in range(8))
DOCUMENT = AugmentedDocument(Document("Tarn lies north of Oss.", "Tarn"), (), PAIRS)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rate_of_every_step(tiny_base, monkeypatch, kind, factors):
    rates = []

    class Recorded(torch.optim.AdamW):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    monkeypatch.setattr(loop.torch.optim, "AdamW", Recorded)
    options = replace(OPTIONS, epochs=2, sequences_per_step=5, lr_scheduler_type=kind)
    LoraTrainer(tiny_base, AUGMENTER, options).train([DOCUMENT])  # 9 sequences, 2 steps an epoch
    assert rates == pytest.approx([3e-3 * factor for factor in factors], rel=1e-4)
    assert scheduled(kind, 0) == 1


def test_every_nth_pair_is_held_out():
    kept, held = hold_out(DOCUMENT, 0.25)
    assert [pair.answer for pair in held] == ["Value 3", "Value 7"]
    assert kept.qa_pairs == (*PAIRS[:3], *PAIRS[4:7])
    assert hold_out(DOCUMENT, 0) == (DOCUMENT, ())


def test_each_document_keeps_the_epoch_of_its_lowest_loss(tiny_base, monkeypatch):
    """Losses are given: the first document is best in epoch 2, the second in 1, the third last."""
    trainer = LoraTrainer(tiny_base, AUGMENTER, OPTIONS)
    stack = StackedLora(tiny_base, [trainer.start] * 3)
    one = [TrainingSequence((5, 6), 1)]
    stop = EarlyStop(stack, [one, one, []], patience=2)
    losses = iter(((5, 3, 0), (4, 6, 0), (6, 7, 0), (6, 1, 0)))
    monkeypatch.setattr(loop, "_loss", lambda *_: torch.tensor(next(losses)).float())
    for epoch in range(1, 5):
        with torch.no_grad():
            for tensor in stack.parameters:
                tensor.fill_(epoch)
        stopped = stop.measure(tiny_base, torch.full((3,), float(epoch)))
        assert not stopped  # the third has nothing to be stopped by
    assert stop.restore().tolist() == [2, 1, 4]
    assert [stack.parameters[0][row].unique().item() for row in range(3)] == [2, 1, 4]


def test_training_ends_when_all_documents_have_stopped(tiny_base):
    options = replace(OPTIONS, epochs=9, learning_rate=0.05, held_out=0.25)
    trainer = LoraTrainer(tiny_base, AUGMENTER, options)
    steps = list(trainer.train_steps([DOCUMENT]))
    assert steps[-1][0] < steps[-1][1] == 9 * 7
    ((adapter, _),) = trainer.train([DOCUMENT])
    shorter = replace(options, epochs=steps[-1][0] // 7 - 1)  # one epoch was one too many
    ((best, _),) = LoraTrainer(tiny_base, AUGMENTER, shorter).train([DOCUMENT])
    for path, pair in adapter.tensors.items():
        assert all(map(torch.equal, pair, best.tensors[path]))


@pytest.mark.parametrize(
    ("count", "steps", "per_step"), [(7, 6, 3), (2, 4, 3), (9, 5, 4), (4, 8, 2)]
)
def test_counted_steps_take_every_sequence_as_often(count, steps, per_step):
    sequences = [TrainingSequence((7,) * (2 + i % 3 * 9) + (i,), 1) for i in range(count)]
    drawn = drawn_steps(sequences, steps, per_step, seed=3)
    assert drawn == drawn_steps(sequences, steps, per_step, seed=3)
    times = Counter(drawn)
    assert len(drawn) == steps * per_step
    assert max(times.values()) - min(times[s] for s in sequences) <= 1
    rows = [drawn[i : i + per_step] for i in range(0, len(drawn), per_step)]
    passes = math.ceil(steps * per_step / count)
    if steps % passes == 0 and per_step <= count:  # no copies side by side in a step
        assert all(len({*row}) == per_step for row in rows)
    lengths = [[len(s.ids) for s in row] for row in rows]
    apart = sum(max(row) - min(row) for row in lengths) / len(rows)
    assert apart <= 9  # of a kind, or of two neighbouring ones


@pytest.mark.parametrize("change", [{"max_steps": -1}, {"held_out": 0.2}, {"scheme": "paper"}])
def test_counted_steps_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"got max_steps .* expected 0, or more without held_out"):
        LoraTrainingOptions(**{"max_steps": 4, "distillation": 0} | change)


def test_packed_sequences_train_as_padded_ones(family_base, monkeypatch):
    """Where nothing is longer than a sliding window: what they begin with is computed once."""
    base, packed = family_base, []
    window = getattr(base.model.config, "sliding_window", None) or 512
    options = replace(OPTIONS, sequences_per_step=3, max_tokens=min(window, 512))
    trainer = LoraTrainer(base, AUGMENTER, options)
    monkeypatch.setattr(loop, "pack", lambda *a: packed.append(pack(*a)) or packed[-1])
    documents = [DOCUMENT, replace(DOCUMENT, qa_pairs=PAIRS[:5])]
    together = trainer.train(documents)
    steps = len(packed)
    longest = max(len(s.ids) for d in documents for s in trainer._sequences(d))
    widths = [p.ids.shape[1] for p, _ in packed]
    assert steps == 3 + 2 and max(widths) < 3 * longest
    monkeypatch.setattr(loop, "PACKED_TOKENS", 0)
    for (mine, loss), (other, expected) in zip(together, trainer.train(documents), strict=True):
        assert loss == pytest.approx(expected, abs=1e-4)
        for path, pair in mine.tensors.items():
            for a, b in zip(pair, other.tensors[path], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
    assert len(packed) == steps
    options = replace(options, max_tokens=longest)
    monkeypatch.setattr(loop, "PACKED_TOKENS", 512)
    monkeypatch.setattr(base.model.config, "sliding_window", longest - 1, raising=False)
    LoraTrainer(base, AUGMENTER, options).train([DOCUMENT])
    assert len(packed) < steps + 3  # the longest are not


def test_what_nobody_has_read_is_learned_from_its_tokens_alone(tiny_base):
    options = replace(OPTIONS, distillation=0.7)
    rows = [TrainingSequence((9, 8, 7, 6), 1, (3, 4, 5)), TrainingSequence((5, 6, 7), 2)]
    ((read, alone),) = finish(teach_steps(tiny_base, [rows], options))
    assert read.taught and alone == rows[1]
    parts = [read, alone], [read], [alone]
    both, taught, untaught = (loop._loss(tiny_base, [part], options).item() for part in parts)
    assert both == pytest.approx((3 * taught + untaught) / 4)  # by tokens
    assert untaught == pytest.approx(loop._loss(tiny_base, [[alone]]).item())


@pytest.mark.parametrize("scheme", ["paper", "recall"])
def test_held_out_pairs_end_as_the_trained_ones(tiny_base, monkeypatch, scheme):
    seen = []

    def fit(base, stack, rows, options, held_out):
        seen.extend(held_out[0])
        yield 1, 1
        return [0.0]

    monkeypatch.setattr(lora_trainer, "fit_steps", fit)
    options = replace(OPTIONS, scheme=scheme, held_out=0.25)
    LoraTrainer(tiny_base, AUGMENTER, options).train([DOCUMENT])
    end = tiny_base.tokenizer.eos_token_id
    assert [sequence.ids[-1] == end for sequence in seen] == [scheme == "recall"] * 2


@pytest.mark.parametrize("change", [{}, {"held_out": 0.25, "epochs": 2}])
def test_a_training_that_diverges_is_refused_by_the_documents_name(tiny_base, change):
    options = replace(OPTIONS, learning_rate=1e30, **change)
    trainer = LoraTrainer(tiny_base, AUGMENTER, options)
    with pytest.raises(ValueError, match=r"got an adapter of Tarn .*lower training.learning_rate"):
        trainer.train([DOCUMENT])
    with pytest.raises(ValueError, match="got an adapter of warm-up whose training diverged"):
        trainer.train_warmup(3 * PAIRS)  # three steps
