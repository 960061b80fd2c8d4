"""Prompts: every template, chat formatting, and the label masks of training sequences."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from prag_core.documents import Document

ANSWER_PREFIX = "The answer is"
CLOSED_BOOK = "Answer the question with a short phrase.\n\nQuestion: {question}"
IN_CONTEXT = (
    "Answer the question with a short phrase, using the passages below.\n\n"
    "{passages}\n\nQuestion: {question}"
)


def chat(tokenizer: PreTrainedTokenizerBase, user: str, assistant: str = "") -> str:
    """Format one user turn and the beginning of the assistant's turn.

    A tokenizer without chat template gets plain text. Encode the result with
    `add_special_tokens=False`: it holds the special tokens already.
    """
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": user}]
        head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return head + assistant
    return f"{tokenizer.bos_token or ''}{user}\n\n{assistant}"


def format_passages(passages: Sequence[Document]) -> str:
    """Number the passages and put their titles before them."""
    lines = []
    for number, passage in enumerate(passages, 1):
        title = f"{passage.title}: " if passage.title else ""
        lines.append(f"Passage {number}: {title}{passage.text}")
    return "\n".join(lines)


def question_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, passages: Sequence[Document] = ()
) -> str:
    """Build the prompt for one question, with passages (in_context) or without (closed book)."""
    template = IN_CONTEXT if passages else CLOSED_BOOK
    user = template.format(question=question, passages=format_passages(passages))
    return chat(tokenizer, user, ANSWER_PREFIX)
