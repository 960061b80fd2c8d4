"""Reader: a question set goes in; a LoRA that answers from passages, and its curves, come out."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup
from prag_core.training.options import ReaderOptions

ADAPTER, CURVES = "adapter", "curves.json"
SHOWN = ("learning_rate", "step", "seconds", "held_out_loss")  # of every point of the curves


def reader(
    question_set: str,
    setup: Setup,
    output: str = "runs/reader",
    reading: ReaderOptions = ReaderOptions(),  # noqa: B008 (frozen)
    leave_out: LeaveOut = LeaveOut(),  # noqa: B008 (frozen)
) -> None:
    """Train the baseline `reader`: one LoRA that answers with the passage in the prompt.

    May be stopped at any time: the best adapter so far is in the output folder. Name
    OUTPUT/adapter in --reader of `prag evaluate` and `prag compare`.

    Args:
        question_set: questions with gold documents, of other articles than those to be measured on.
        setup: shared settings; `training` has the LoRA's rank, alpha, modules and dtype.
        output: folder for adapter/ (stock PEFT) and curves.json.
        reading: of this training.
        leave_out: articles (file of titles) and relations that nothing is drawn of.
    """
    from prag_core.augmentation.span_augmenter import SpanAugmenter
    from prag_core.formats.peft_folder import require_empty
    from prag_core.model.base_model import load_base_model
    from prag_core.model.hardware import machine
    from prag_core.training.lora_trainer import LoraTrainer
    from prag_core.training.reader import reader_sequences, train_reader

    folder = Path(output)
    require_empty(folder / ADAPTER)
    whole = load_question_set(question_set, skip_bad=True)
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    trainer = LoraTrainer(base, SpanAugmenter(), setup.training.for_peft())
    sequences = reader_sequences(trainer, whole, reading, leave_out)
    print(
        f"{len(sequences.training):,} questions, {len(sequences.held_out)} held out, "
        f"{sequences.too_long} left out for their length"
    )
    lora = {name: getattr(trainer.options, name) for name in ("rank", "alpha", "modules", "dtype")}
    kept = {
        "base_model": setup.base_model,
        "question_set": whole.name,
        "machine": machine(),
        "reading": asdict(reading),
        "leave_out": asdict(leave_out),
        "lora": lora,
        "questions": len(sequences.training),
        "held_out_questions": len(sequences.held_out),
        "held_out_articles": sequences.articles,
        "too_long": sequences.too_long,
        "best": {},
        "stopped": "",
        "curves": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for point in train_reader(trainer, sequences, reading):
        _keep(point, folder, kept)
    print(f"ended ({kept['stopped']}): {folder / ADAPTER}")


def _keep(point: Any, folder: Path, kept: dict) -> None:
    """Write the adapter where it is the best so far, and the curves with this `Measured` point."""
    from prag_core.formats.peft_folder import to_peft

    row = {name: getattr(point, name) for name in SHOWN}
    if not math.isfinite(point.held_out_loss):  # JSON has no such number
        row["held_out_loss"] = None
    if adapter := point.adapter:
        shutil.rmtree(folder / f"{ADAPTER}.new", ignore_errors=True)  # of a run that was killed
        fresh = to_peft(adapter, folder / f"{ADAPTER}.new", kept["base_model"])
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        fresh.rename(folder / ADAPTER)
        kept |= {"prompt": adapter.metadata["prompt"], "best": row}
    kept["curves"].append(row)
    kept["stopped"] = point.stopped
    write_json(folder / CURVES, kept)
    print(
        f"{point.seconds:6.0f} s, learning rate {point.learning_rate:g}, step {point.step}: "
        f"held-out loss {point.held_out_loss:.4f}" + (" (best)" if point.adapter else ""),
        flush=True,
    )
