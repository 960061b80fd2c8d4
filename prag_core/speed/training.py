"""Benchmarks of the trained path: its speed and losses beside stock PEFT, and its stages."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from statistics import mean

from prag_core.formats.peft_folder import to_peft
from prag_core.model.base_model import BaseModel
from prag_core.pipeline.parts import build_parametrizer
from prag_core.pipeline.setup import Setup
from prag_core.speed.measurement import Measurement, Peft, bounded, compared, seconds
from prag_core.speed.workload import paper_trainer, workload_documents
from prag_core.training.loop import finish, teach_steps
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.sequences import build_sequences

DOCUMENTS, BASELINE_DOCUMENTS = 12, 4
LOSS_TOLERANCE = 0.02  # share of the loss; bfloat16 has 8 bits


def measure_training(base: BaseModel, peft: Peft, hypernet: str, quick: bool) -> list[Measurement]:
    """Train documents from one start: ours 12 together, PEFT the first of them one at a time.

    All sides run the paper's 5 sequences a document, one a step. Ours and the bfloat16 baseline
    alternate, and the float32 baseline, padded as the paper's code pads, trains one document.
    Starting and taking out an adapter counts on all sides, writing it to disk on none. A
    document's final loss is that of its last step. The generated path makes adapters of the same
    documents in the same run.
    """
    count, few = (2, 2) if quick else (DOCUMENTS, BASELINE_DOCUMENTS)
    trainer, documents = paper_trainer(base), workload_documents(count)
    options, augmented = trainer.options, trainer.augmenter.augment(documents)
    how = options.scheme, options.max_tokens, trainer.wording
    sequences = [[s.ids for s in build_sequences(base.tokenizer, a, *how)] for a in augmented]
    times, made, losses, tight = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        start = to_peft(trainer.start, Path(folder) / "start", base.name)
        # PEFT gets our token ids and our initial adapter: the two differ in nothing but the loop.
        run = partial(peft, "train", adapter=str(start), rate=options.learning_rate)
        for dtype in ("bfloat16", "float32"):  # loads the models
            run(dtype=dtype, length=0, sequences=sequences[0][:1])
        trainer.train(augmented[:1])
        generated = build_parametrizer(base, Setup(path="generated", hypernet=hypernet), None)
        generated.parametrize(documents[:1])
        for half in (sequences[: few // 2], sequences[few // 2 : few]):
            times.append(seconds(lambda: losses.append(trainer.train(augmented))))
            made.append(seconds(lambda: generated.parametrize(documents)))
            tight += [run(dtype="bfloat16", length=0, sequences=s) for s in half]
        padded = options.max_tokens
        paper = run(dtype="float32", length=padded, sequences=sequences[0])
    ours, tight_rate = count / mean(times), few / sum(reply["seconds"] for reply in tight)
    ours_losses = [loss for _, loss in losses[0]]
    counts = f"ours {count} documents of {len(sequences[0])} sequences"
    return [
        compared("trained path / PEFT, float32, padded", ours, 1 / paper["seconds"],
                 "documents/s", 20, f"padded to {padded}, 1 document; {counts}"),
        compared("trained path / PEFT, bfloat16, tight", ours, tight_rate,
                 "documents/s", 2, f"{few} documents; {counts}"),
        compared("generated path / trained path, paper's settings, batched",
                 count / mean(made), ours, "documents/s", 100, counts),
        _losses("final loss / PEFT, float32, padded", ours_losses, [paper]),
        _losses("final loss / PEFT, bfloat16, tight", ours_losses, tight),
    ]  # fmt: skip


def measure_stages(base: BaseModel, quick: bool) -> list[Measurement]:
    """Time the stages of a trained adapter at the default settings.

    Adapters of the demo's documents are made twice; seconds are means.
    """
    documents = workload_documents(2 if quick else DOCUMENTS)
    trainer = build_parametrizer(base, Setup(path="trained"), None)
    assert isinstance(trainer, LoraTrainer)
    options = trainer.options
    augmented = trainer.augmenter.augment(documents)  # what is written is the same every time
    how = options.scheme, options.max_tokens, trainer.wording
    room = base.context_length
    sequences = [build_sequences(base.tokenizer, a, *how, reading=room) for a in augmented]
    wrote, taught, trained = [], [], []
    for _ in range(1 if quick else 2):
        wrote.append(seconds(lambda: trainer.augmenter.augment(documents)))
        read = teach_steps(base, sequences, options, trainer.teacher or trainer.stack().shared)
        taught.append(seconds(lambda steps=read: finish(steps)))
        trained.append(seconds(lambda: trainer.train(augmented)))
    # `train` reads by itself.
    stages = {
        "of it augmentation": mean(wrote),
        "of it the reading model": mean(taught),
        "of it training": mean(trained) - mean(taught),
    }
    count, whole = len(documents), mean(wrote) + mean(trained)
    note = f"{count} documents of the demo; {options.max_steps} steps of "
    note += f"{options.sequences_per_step} sequences"
    return [
        bounded("trained path, default settings", whole / count, "s/document", "<=", 12, note),
        *(Measurement(name, spent / count, "s/document") for name, spent in stages.items()),
    ]


def _losses(name: str, ours: list[float], replies: list[dict]) -> Measurement:
    """Compare mean losses of the documents that PEFT trained; note the largest difference."""
    theirs = [reply["losses"][-1] for reply in replies]  # of the last step
    ours = ours[: len(theirs)]
    largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    met = abs(mean(ours) - mean(theirs)) <= LOSS_TOLERANCE * mean(theirs)
    note = f"the same {len(ours)} documents; at most {largest:.4f} apart in one"
    target = f"within {LOSS_TOLERANCE:.0%}"
    return Measurement(name, mean(ours), "nats", mean(theirs), None, target, met, note)
