"""Warm-up: question-answer pairs go in; an adapter to start the trained path from comes out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from random import Random

from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup
from prag_core.training.options import TRAINING, require_counts


def warmup(
    question_set: str,
    to: str,
    setup: Setup,
    limit: int = 0,
    skip: int = 0,
    more: tuple[str, ...] = (),
    held_out: int = 0,
    most_words: int = 0,
    leave_out: LeaveOut = LeaveOut(),  # noqa: B008 (frozen)
) -> None:
    """Train an adapter on question-answer pairs, for the trained path to start from.

    Name its folder in --training.init; training.json in it says how it was made. In a wording with
    chain of thought (`training.prompt`) the base model writes the reasoning from the questions'
    gold documents, and what does not end with a golden answer is left out.

    Args:
        question_set: questions with golden answers, of other documents than those to come.
        to: PEFT folder to write.
        setup: shared settings.
        limit: draw so many questions of each set (by training.seed); 0: all.
        skip: leave out the first so many of each set, those that a benchmark asks.
        more: further question sets, treated alike.
        held_out: draw so many documents of each set, as `prag evaluate` does with `documents` and
            the seed training.seed, and take no question on their articles (by title): what is
            measured on these documents then says something.
        most_words: draw no longer documents.
        leave_out: articles and relations that nothing is asked about.
    """
    from prag_core.augmentation.augmented import QAPair
    from prag_core.augmentation.self_augmenter import write_reasoning
    from prag_core.augmentation.span_augmenter import SpanAugmenter
    from prag_core.formats.peft_folder import require_empty, to_peft
    from prag_core.model.base_model import load_base_model
    from prag_core.training.lora_trainer import LoraTrainer

    counts = {"limit": limit, "skip": skip, "held_out": held_out, "most_words": most_words}
    require_counts(**counts)
    require_empty(Path(to))
    seed, drawn = setup.training.seed, []
    for source in (question_set, *more):
        whole = load_question_set(source, skip_bad=True)
        first = {question.id for question in whole.questions[:skip]}
        questions = leave_out.questions(whole, held_out, most_words, seed)
        questions = [question for question in questions if question.id not in first]
        if limit and limit < len(questions):
            questions = Random(seed).sample(questions, limit)
        drawn.append((whole, questions))
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    trainer = LoraTrainer(base, SpanAugmenter(), setup.training.for_peft())
    pairs: list[QAPair] = []
    for whole, questions in drawn:
        if trainer.wording.conclusion:
            pairs += write_reasoning(base, whole, questions, trainer.wording)
        else:
            pairs += [QAPair(q.question, q.golden_answers[0]) for q in questions]
    if not pairs:
        raise ValueError(
            f"got no question-answer pairs from {question_set} behind its first {skip} questions, "
            "expected some: skip fewer, or name a larger set"
        )
    folder = to_peft(trainer.train_warmup(pairs), to, setup.base_model)
    kept = {"base_model": setup.base_model, "question_sets": [question_set, *more], **counts}
    kept |= {"leave_out": asdict(leave_out), "training": asdict(trainer.options)}
    write_json(folder / TRAINING, kept | {"pairs": len(pairs)})
    print(folder)
