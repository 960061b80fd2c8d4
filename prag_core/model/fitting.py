"""Fitting: a question with passages goes in, a prompt that leaves room for the answer comes out.

What is too much goes in this order: the oldest turns of a conversation, as far as they take more
than half of the room that passages need too; then the last passages, from their ends. The question
and the wording stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prag_core.corpus.documents import Document
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.prompts import (
    Continuation,
    Conversation,
    Question,
    prompt_ids,
    write_prompt,
)
from prag_core.model.wordings import DEFAULT, Wording

LEAST_TOKENS = 8  # of a passage: less says nothing
LONGEST_WORD = 80  # characters; the last space of a script without spaces may lie far before


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt and what it lacks.

    Attributes:
        text: the whole prompt.
        notes: what was cut, in sentences.
        error: why it leaves no room for an answer, though nothing is left to cut; "" where it does.
    """

    text: str
    notes: tuple[str, ...] = ()
    error: str = ""


def fit_prompt(
    base: BaseModel,
    question: Question,
    passages: Sequence[Document] = (),
    wording: Wording = DEFAULT,
    max_new_tokens: int = 0,
) -> FittedPrompt:
    """Write a prompt (see `write_prompt`) that leaves room for an answer in the context.

    Raises:
        ValueError: turns that the chat template refuses.
    """
    tokenizer, room = base.tokenizer, base.context_length - max_new_tokens

    def excess(question: Question, passages: Sequence[Document]) -> int:
        prompt = write_prompt(tokenizer, question, passages, wording)
        return len(prompt_ids(tokenizer, prompt)) - room

    notes, shown = [], list(passages)
    over = excess(question, shown)
    if over > 0 and not isinstance(question, str | Continuation):
        # In tokens, what the turns may exceed the room by: below 0, where passages need half of it.
        most, turns = -(room // 2) if passages else 0, len(question)
        while (rest := without_oldest(question)) is not question and excess(question, ()) > most:
            question = rest
        if dropped := turns - len(question):
            notes.append(f"{dropped} earlier turns were left out: the context has no room for them")
            over = excess(question, shown)
    while over > 0 and shown:
        shown[-1:] = _shortened(base, shown[-1], over)
        over = excess(question, shown)
    if shown != list(passages):
        whole = sum(a == b for a, b in zip(shown, passages, strict=False))
        notes.append(
            f"{whole} of {len(passages)} passages are whole in the prompt, {len(shown) - whole} in "
            f"part: the context is {base.context_length} tokens"
        )
    error = (
        f"got a prompt of {over + room} tokens, expected at most {room} (context "
        f"{base.context_length} less max_new_tokens {max_new_tokens}): ask a shorter question, or "
        "for a shorter answer"
    )
    prompt = write_prompt(tokenizer, question, shown, wording)
    return FittedPrompt(prompt, tuple(notes), error if over > 0 else "")


def without_oldest(turns: Conversation) -> Conversation:
    """Return a conversation without its first user's turn and what follows up to the next one.

    The system's turn stays, and so does the last one; where nothing else is left, the same
    conversation comes back.
    """
    first = int(turns[0]["role"] == "system")
    later = (i for i in range(first + 1, len(turns)) if turns[i]["role"] == "user")
    next_user = next(later, len(turns) - 1)
    return turns if next_user <= first else [*turns[:first], *turns[next_user:]]


def _shortened(base: BaseModel, passage: Document, excess: int) -> list[Document]:
    """Cut a passage by so many tokens, roughly; none where little would be left.

    It is cut between words where there is a space, else between characters.
    """
    (ids,) = text_ids(base.tokenizer, [passage.text])
    kept = len(ids) - excess
    if kept < LEAST_TOKENS:
        return []
    text = passage.text[: len(passage.text) * kept // len(ids)]
    end = max(map(text.rfind, " \n\t"))
    if end > max(len(text) - LONGEST_WORD, len(text) // 2):
        text = text[:end]
    return [replace(passage, text=text)]
