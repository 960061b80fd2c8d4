"""Writer: questions with their gold documents go in; a LoRA that asks such questions comes out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from random import Random

from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup
from prag_core.training.options import TRAINING, require_counts


def writer(
    question_set: str,
    to: str,
    setup: Setup,
    limit: int = 0,
    held_out: int = 0,
    most_words: int = 0,
    leave_out: LeaveOut = LeaveOut(),  # noqa: B008 (frozen)
) -> None:
    """Train an adapter that asks questions about a document, as people do.

    Name its folder in --augmentation.adapter; training.json in it says how it was made.

    Args:
        question_set: questions with gold documents and golden answers.
        to: PEFT folder to write.
        setup: shared settings; `training` has rank, learning rate and epochs.
        limit: documents to draw (by training.seed); 0: all.
        held_out: draw so many documents, as `prag evaluate` does with `documents` and the seed
            training.seed, and take none of their articles (by title): what is measured on these
            documents then says something.
        most_words: draw no longer documents, and train on none.
        leave_out: articles and relations that nothing is asked about.
    """
    from prag_core.augmentation.augmented import QAPair
    from prag_core.augmentation.span_augmenter import SpanAugmenter
    from prag_core.formats.peft_folder import require_empty, to_peft
    from prag_core.model.base_model import load_base_model
    from prag_core.training.lora_trainer import LoraTrainer

    counts = {"limit": limit, "held_out": held_out, "most_words": most_words}
    require_counts(**counts)
    require_empty(Path(to))
    whole, seed = load_question_set(question_set, skip_bad=True), setup.training.seed
    asked: dict[str, list[QAPair]] = {}
    for question in leave_out.questions(whole, held_out, most_words, seed):
        for document_id in question.gold_ids[:1]:
            pair = QAPair(question.question, question.golden_answers[0])
            asked.setdefault(document_id, []).append(pair)
    known = whole.documents_by_id
    ids = [i for i in asked if not most_words or len(known[i].text.split()) <= most_words]
    if limit and limit < len(ids):
        ids = Random(seed).sample(ids, limit)
    if not ids:
        raise ValueError(
            f"got no questions with gold documents from {question_set} beside those that are left "
            "out, expected some: hold out fewer documents, or name a larger set"
        )
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    trainer = LoraTrainer(base, SpanAugmenter(), setup.training.for_peft())
    made = trainer.train_writer([known[i] for i in ids], [asked[i] for i in ids])
    folder = to_peft(made, to, setup.base_model)
    kept = {"base_model": setup.base_model, "question_set": question_set, **counts}
    kept |= {"leave_out": asdict(leave_out), "training": asdict(trainer.options)}
    write_json(folder / TRAINING, kept | {"documents": len(ids)})
    print(folder)
