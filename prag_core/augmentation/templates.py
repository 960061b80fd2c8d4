"""Prompts for augmentation: rewrites, question-answer pairs as JSON, sentences with a gap."""

from __future__ import annotations

QA_EXAMPLE = "What is the capital of France?"
# Both after Su et al. (2025), in our words.
REWRITE = (
    "Rewrite the passage below in different words and with different sentences. Keep every name, "
    "number, date and fact. Write only the new passage.\n\n{passage}"
)
QA_PAIRS = (
    "Write {count} different questions that the passage below answers, each with its answer. "
    "Answers are short phrases copied from the passage. Write only a JSON list in this form:\n"
    f'[{{{{"question": "{QA_EXAMPLE}", "answer": "Paris"}}}}]\n\n'
    "Passage:\n{passage}"
)
BLANK = "____"
CLOZE = "Which words are missing here: {sentence}"


def titled(title: str, text: str) -> str:
    """Put the title before a passage."""
    return f"{title}: {text}" if title else text
