"""Benchmark of the trained path: documents a second and final losses, beside stock PEFT."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

from prag_core.adapters.adapter import Adapter
from prag_core.formats.peft_folder import to_peft
from prag_core.model.base_model import BaseModel
from prag_core.pipeline.parts import Setup, build_parametrizer
from prag_core.speed.measurement import Measurement, PeftProcess, compared, seconds
from prag_core.speed.workload import FixedAugmenter, workload_documents, workload_options
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.sequences import build_sequences

DOCUMENTS, BASELINE_DOCUMENTS = 12, 4
LOSS_TOLERANCE = 0.02  # share of the loss; bfloat16 has 8 bits


def measure_training(
    base: BaseModel, peft: PeftProcess, hypernet: str, quick: bool = False
) -> list[Measurement]:
    """Train documents from one start: ours 12 together, PEFT the first of them one at a time.

    All sides run the paper's 5 sequences a document, one a step. Ours and the bfloat16 baseline
    alternate, and the float32 baseline, padded as the paper's code pads, trains one document.
    Starting and taking out an adapter counts on all sides, writing it to disk on none. A
    document's final loss is that of its last step. The generated path makes adapters of the same
    documents in the same run.
    """
    count, few = (2, 2) if quick else (DOCUMENTS, BASELINE_DOCUMENTS)
    trainer = LoraTrainer(base, FixedAugmenter(), workload_options(base))
    options = trainer.options
    augmented = trainer.augmenter.augment(workload_documents(count))
    sequences = [
        [s.ids for s in build_sequences(base.tokenizer, a, options.scheme, options.max_tokens)]
        for a in augmented
    ]
    times, losses, tight = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        start = to_peft(Adapter(trainer.spec, trainer.init), Path(folder) / "start", base.name)
        common = {"adapter": str(start), "learning_rate": options.learning_rate}
        for dtype in ("bfloat16", "float32"):  # loads the models
            peft("train", **common, dtype=dtype, length=0, sequences=sequences[0][:1])
        trainer.train(augmented[:1])
        generated = build_parametrizer(base, Setup(path="generated", hypernet=hypernet), None)
        documents = [a.document for a in augmented]
        generated.parametrize(documents[:1])
        made = []
        for half in (sequences[: few // 2], sequences[few // 2 : few]):
            times.append(seconds(lambda: losses.append(trainer.train(augmented))))
            made.append(seconds(lambda: generated.parametrize(documents)))
            tight += [
                peft("train", **common, dtype="bfloat16", length=0, sequences=s) for s in half
            ]
        padded = options.max_tokens
        paper = peft("train", **common, dtype="float32", length=padded, sequences=sequences[0])
    ours = len(augmented) / mean(times)
    ours_losses = [loss for _, loss in losses[0]]
    tight_losses = [reply["losses"][-1] for reply in tight]
    counts = f"ours {count} documents of {len(sequences[0])} sequences"
    return [
        compared("train", "trained path / PEFT, float32, padded", ours, 1 / paper["seconds"],
                 "documents/s", 20, f"padded to {padded}, 1 document; {counts}"),
        compared("train", "trained path / PEFT, bfloat16, tight", ours,
                 len(tight) / sum(reply["seconds"] for reply in tight),
                 "documents/s", 2, f"{few} documents; {counts}"),
        compared("train", "generated path / trained path, paper's settings, batched",
                 count / mean(made), ours, "documents/s", 100, counts),
        _losses("final loss / PEFT, float32, padded", ours_losses[:1], paper["losses"][-1:]),
        _losses("final loss / PEFT, bfloat16, tight", ours_losses[:few], tight_losses),
    ]  # fmt: skip


def _losses(name: str, ours: list[float], theirs: list[float]) -> Measurement:
    """Compare mean losses; note the largest difference of a document."""
    difference = abs(mean(ours) - mean(theirs))
    largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return Measurement(
        "train", name, mean(ours), "nats", mean(theirs),
        target=f"within {LOSS_TOLERANCE:.0%}",
        met=difference <= LOSS_TOLERANCE * mean(theirs),
        note=f"the same {len(ours)} documents; at most {largest:.4f} apart in one",
    )  # fmt: skip
