"""Training sequences: an augmented document goes in, token ids with the answer's start come out."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prag_core.augmentation import AugmentedDocument
from prag_core.documents import Document
from prag_core.prompts import chat, question_prompt

SCHEMES = ("paper", "recall")
RECITE = "Write down what you know about {title}."


@dataclass(frozen=True)
class TrainingSequence:
    """Token ids (T,) of prompt and answer; the answer begins at `answer_start`."""

    ids: tuple[int, ...]
    answer_start: int


def build_sequences(
    tokenizer: PreTrainedTokenizerBase, augmented: AugmentedDocument, scheme: str, max_tokens: int
) -> list[TrainingSequence]:
    """Write the sequences that one document is trained on.

    `paper` (Su et al., 2025, and its code): every question-answer pair but the last with the
    passage and with each rewrite, the last one without passage; with 1 rewrite and 3 pairs these
    are 5. `recall`: every pair without passage, as it will be asked, and the text and its rewrites
    as a recitation. A document without pairs is trained on its text.
    """
    document = augmented.document
    texts = [text for text in (document.text, *augmented.rewrites) if text]
    pairs = augmented.qa_pairs
    built = []
    if scheme == "paper":
        for pair in pairs[:-1]:
            passages = [Document(text, document.title) for text in texts]
            built += [
                encode(tokenizer, question_prompt(tokenizer, pair.question, [p]), pair.answer)
                for p in passages
            ]
        asked = pairs[-1:]
    else:
        asked = pairs
    built += [
        encode(tokenizer, question_prompt(tokenizer, pair.question), pair.answer) for pair in asked
    ]
    if scheme == "recall" or not pairs:
        prompt = chat(tokenizer, RECITE.format(title=document.title or "the document"))
        built += [encode(tokenizer, prompt, text) for text in texts]
    return [cut(sequence, max_tokens) for sequence in built]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> TrainingSequence:
    """Tokenise prompt and answer and end with the end-of-sequence token."""
    space = " " if prompt.endswith(":") else ""
    head = tokenizer(prompt, add_special_tokens=False).input_ids
    tail = tokenizer(space + answer, add_special_tokens=False).input_ids
    return TrainingSequence((*head, *tail, tokenizer.eos_token_id), len(head))


def cut(sequence: TrainingSequence, max_tokens: int) -> TrainingSequence:
    """Drop tokens before the answer's question until at most `max_tokens` are left."""
    excess = len(sequence.ids) - max_tokens
    if excess <= 0:
        return sequence
    start = max(sequence.answer_start - excess, 1)
    return TrainingSequence(sequence.ids[-max_tokens:], min(start, max_tokens - 1))
