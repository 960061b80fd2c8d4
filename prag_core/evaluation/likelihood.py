"""Likelihood: documents and questions go in, token sequences that `mean_nll` scores come out."""

from __future__ import annotations

from collections.abc import Sequence

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel, start_token
from prag_core.model.prompts import question_prompt
from prag_core.model.wordings import DEFAULT, Wording
from prag_core.training.sequences import TrainingSequence, encode

TEXT_TOKENS = 512  # of a document that are scored


def text_sequences(base: BaseModel, documents: Sequence[Document]) -> list[TrainingSequence]:
    """Return the documents' texts behind a start token, which is not scored."""
    tokenizer = base.tokenizer
    start = start_token(tokenizer)
    texts = text_ids(tokenizer, (d.text for d in documents))
    return [TrainingSequence((start, *ids[: TEXT_TOKENS - 1]), 1) for ids in texts]


def answer_sequences(
    base: BaseModel,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Document]],
    wording: Wording = DEFAULT,
) -> list[TrainingSequence]:
    """Return prompt and first golden answer of every question, without the end token."""
    sequences = []
    for question, documents in zip(questions, passages, strict=True):
        prompt = question_prompt(base.tokenizer, question.question, documents, wording)
        whole = encode(base.tokenizer, prompt, question.golden_answers[0])
        # The end token is format: it would dominate the loss of a short answer.
        sequences.append(TrainingSequence(whole.ids[:-1], whole.answer_start))
    return sequences
