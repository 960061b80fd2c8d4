"""Likelihood: token sequences and adapters go in, mean negative log-likelihoods come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel, start_token
from prag_core.model.padding import labels, pad
from prag_core.model.prompts import question_prompt
from prag_core.model.token_loss import IGNORE, sequence_nll
from prag_core.model.wordings import DEFAULT, Wording
from prag_core.training.sequences import TrainingSequence, encode

TEXT_TOKENS = 512  # of a document that are scored
BATCH = 16

Load = Callable[[str], Adapter]


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


def mean_nll(
    base: BaseModel,
    sequences: Sequence[TrainingSequence],
    document_ids: Sequence[str] | None = None,
    load: Load | None = None,
) -> list[float]:
    """Return the mean NLL of every sequence from its start on, in nats a token.

    Args:
        base: base model.
        sequences: token ids; tokens before `answer_start` are not scored.
        document_ids: whose adapter each sequence is read with; none when omitted.
        load: returns a document's adapter; needed with document_ids.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].ids))  # less padding
    values = [0.0] * len(sequences)
    padding = base.tokenizer.pad_token_id or 0
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        ids, lengths = pad([sequences[i].ids for i in rows], padding)  # (rows, T), (rows,)
        target = labels(ids, [sequences[i].answer_start for i in rows], lengths, IGNORE)
        adapters = None if document_ids is None else [load(document_ids[i]) for i in rows]
        with attached(base, adapters):
            losses = sequence_nll(base, ids, target)  # (rows,)
        for row, loss in zip(rows, losses.tolist(), strict=True):
            values[row] = loss
    return values
