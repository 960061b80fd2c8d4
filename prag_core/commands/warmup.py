"""Warm-up: question-answer pairs go in; an adapter to start the trained path from comes out."""

from __future__ import annotations

from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.question_sets import load_question_set
from prag_core.formats.peft_folder import to_peft
from prag_core.model.base_model import load_base_model
from prag_core.pipeline.parts import Setup
from prag_core.training.lora_trainer import LoraTrainer


def warmup(question_set: str, to: str, setup: Setup, limit: int | None = None) -> None:
    """Train an adapter on question-answer pairs, for the trained path to start from.

    Name its folder in --training.init.

    Args:
        question_set: questions with golden answers, of other documents than those to come.
        to: PEFT folder to write.
        setup: shared settings.
        limit: take the first questions only.
    """
    questions = load_question_set(question_set, limit=limit, skip_bad=True).questions
    # Questions without golden answers (BEIR's) have nothing to be trained on.
    pairs = [QAPair(q.question, q.golden_answers[0]) for q in questions if q.golden_answers]
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    trainer = LoraTrainer(base, SpanAugmenter(), setup.training)
    print(to_peft(trainer.train_warmup(pairs), to, setup.base_model))
