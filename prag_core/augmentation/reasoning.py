"""Reasoning: questions with their documents and answers go in, pairs with a full answer come out.

What the warm-up of a wording with chain of thought is trained on (Su et al., 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.self_augmenter import generate_fitting
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.model.base_model import BaseModel
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.prompts import question_prompt
from prag_core.model.wordings import Wording

HINT = "The right answer is {answer}."  # shown as the last passage
REASONING_TOKENS = 128  # as long as answers with reasoning may be


def write_reasoning(
    base: BaseModel, loaded: QuestionSet, questions: Sequence[Question], wording: Wording
) -> list[QAPair]:
    """Let the model reason from the gold documents to the answer, which it is told.

    Args:
        base: the model that writes.
        loaded: holds the questions' documents.
        questions: with golden answers.
        wording: that the reasoning is for; it has a conclusion.

    Returns:
        A pair for every question whose reasoning ends with a golden answer; the others are left
        out.
    """
    prompts = []
    for question in questions:
        hint = Document(HINT.format(answer=question.golden_answers[0]))
        passages = [*(loaded.documents_by_id[i] for i in question.gold_ids), hint]
        prompts.append(question_prompt(base.tokenizer, question.question, passages, wording))
    texts = generate_fitting(base, prompts, GenerationOptions(REASONING_TOKENS))
    return [
        QAPair(question.question, question.golden_answers[0], text)
        for question, text in zip(questions, texts, strict=True)
        if text and wording.conclusion in text
        and score_answer(wording.answer(text), question.golden_answers).exact_match
    ]  # fmt: skip
