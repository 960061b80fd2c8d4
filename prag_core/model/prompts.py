"""Prompts: every template for asking, and chat formatting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer

from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.documents import Document

STYLES = ("direct", "cot")
CLOSED_BOOK = "Answer the question with a short phrase.\n\n{examples}Question: {question}"
# The wording of Su et al. (2025); the best of four for the embedded model on SQuAD train.
IN_CONTEXT = (
    "You should answer the question by referring to the knowledge provided below and integrating "
    "your own knowledge.\n{passages}\n\n{examples}Question: {question}"
)
CONCLUSION = "So the answer is"
# Few-shot chain of thought (Wei et al., 2022) for multi-hop questions.
EXAMPLES = (
    (
        "When did the director of the film The Glass Harbour die?",
        "The film The Glass Harbour was directed by Ida Brandt. Ida Brandt died on 4 May 1971.",
        "4 May 1971",
    ),
    (
        "Who is older, Paul Renner or Jan Tschichold?",
        "Paul Renner was born in 1878. Jan Tschichold was born in 1902. The earlier is 1878.",
        "Paul Renner",
    ),
    (
        "Are the Elbe and the Oder both rivers in Europe?",
        "The Elbe is a river in Central Europe. The Oder is a river in Central Europe.",
        "yes",
    ),
)


@dataclass(frozen=True)
class Continuation:
    """A text to go on from as it is, without chat format."""

    text: str


Passages = Sequence[Document]
Conversation = Sequence[Mapping[str, str]]  # turns with `role` and `content`, the last a user's
Question = Union[str, Conversation, Continuation]  # noqa: UP007 (evaluated on Python 3.10)


def plain_question(question: Question) -> str:
    """Return what is asked: of a conversation, its last turn."""
    if isinstance(question, Continuation):
        return question.text
    return question if isinstance(question, str) else question[-1]["content"]


def prompt_id(question: Question = "", passages: bool = False, style: str = "direct") -> str:
    """Name the wording that a question is asked in; it changes when the wording does.

    Adapters and checkpoints record the id of the prompt that they were made for: that of a plain
    question without passages.
    """
    if isinstance(question, Continuation):
        return "continuation"
    if not isinstance(question, str) and len(question) > 1:
        return "conversation"
    wording = [IN_CONTEXT if passages else CLOSED_BOOK, EXAMPLES if style == "cot" else ""]
    return f"{style}-{'in_context' if passages else 'closed_book'}-{fingerprint(wording)[:6]}"


def write_prompt(
    tokenizer: Tokenizer, question: Question, passages: Passages = (), style: str = "direct"
) -> str:
    """Write the whole prompt of a question, a conversation or a text to go on from.

    A conversation of one turn is a question, as adapters are trained for it. A longer one keeps its
    turns; passages are put into the last.

    Raises:
        ValueError: an unknown style, or turns that the chat template refuses.
    """
    if isinstance(question, Continuation):
        shown = "".join(f"{passage.text}\n\n" for passage in passages)
        begins = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        return (tokenizer.bos_token if begins else "") + shown + question.text
    text = plain_question(question)
    if isinstance(question, str) or len(question) == 1:
        return question_prompt(tokenizer, text, passages, style)
    if passages:
        text = IN_CONTEXT.format(question=text, passages=format_passages(passages), examples="")
    return _chat(tokenizer, [*question[:-1], {"role": "user", "content": text}])


def question_prompt(
    tokenizer: Tokenizer, question: str, passages: Passages = (), style: str = "direct"
) -> str:
    """Build the prompt for one question, with passages (in_context) or without (closed book).

    Raises:
        ValueError: an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"got prompt style {style!r}, expected one of {list(STYLES)}")
    shots = [f"Question: {q}\nAnswer: {why} {CONCLUSION} {a}.\n\n" for q, why, a in EXAMPLES]
    examples = "".join(shots) if style == "cot" else ""
    template = IN_CONTEXT if passages else CLOSED_BOOK
    user = template.format(question=question, passages=format_passages(passages), examples=examples)
    return chat(tokenizer, user)


def format_passages(passages: Sequence[Document]) -> str:
    """Number the passages and put their titles before them."""
    titled = [f"{p.title}: {p.text}" if p.title else p.text for p in passages]
    return "\n".join(f"Passage {number}: {text}" for number, text in enumerate(titled, 1))


def chat(tokenizer: Tokenizer, user: str) -> str:
    """Format one user turn, up to where the assistant's answer begins.

    A tokenizer without chat template gets plain text. Encode the result with
    `add_special_tokens=False`: it holds the special tokens already.
    """
    if tokenizer.chat_template:
        return _chat(tokenizer, [{"role": "user", "content": user}])
    return f"{tokenizer.bos_token or ''}{user}\nAnswer:"


def _chat(tokenizer: Tokenizer, turns: Sequence[Mapping[str, str]]) -> str:
    """Format a conversation by the chat template, or as lines of plain text."""
    if not tokenizer.chat_template:
        lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
        return "\n".join([f"{tokenizer.bos_token or ''}{lines[0]}", *lines[1:], "Assistant:"])
    try:
        # enable_thinking is read by Qwen3's template alone: short answers, no monologue.
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError as error:
        raise ValueError(
            f"got a conversation that the model's chat template refuses ({error}), expected "
            "turns of user and assistant in alternation: leave out the system's turn"
        ) from error


def extract_answer(text: str, style: str = "direct") -> str:
    """Return the short answer: for `cot` what follows the conclusion, else the text itself."""
    if style == "cot" and CONCLUSION in text:
        return text.split(CONCLUSION)[-1].strip().strip(".").strip()
    return text
