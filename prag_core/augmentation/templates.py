"""Prompts for augmentation: rewrites, question-answer pairs as JSON, natural word order."""

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
# Few-shot: the question made by rule, the same in natural word order.
REPHRASE = "Rewrite each question so that it begins with its question word."
REPHRASE_EXAMPLES = (
    (
        "About Oak Island Light: the tower stands how many feet tall?",
        "How many feet tall is the tower of Oak Island Light?",
    ),
    (
        "Marie Duval studied painting in Lyon under whom?",
        "Under whom did Marie Duval study painting in Lyon?",
    ),
    (
        "About Kestrel Airlines: in its first year the company carried how many passengers?",
        "How many passengers did Kestrel Airlines carry in its first year?",
    ),
    (
        "Lake Orsa lies near which village and is 40 metres deep?",
        "Near which village does Lake Orsa lie?",
    ),
    (
        "About Blue tit: the nest is lined with what?",
        "What is the nest of the blue tit lined with?",
    ),
    (
        "About Paul Renner: he moved to Munich in what year?",
        "In what year did Paul Renner move to Munich?",
    ),
)
BLANK = "____"
CLOZE = "Which words are missing here: {sentence}"


def titled(title: str, text: str) -> str:
    """Put the title before a passage."""
    return f"{title}: {text}" if title else text
