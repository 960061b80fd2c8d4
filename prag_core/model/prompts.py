"""Prompts: questions, conversations, passages and a wording go in, whole prompts come out.

A prompt is one text with the special tokens of its chat format in it. What users wrote is `plain`
in it (see `prag_core.corpus.text_tokens`): `encode` reads no control token there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Union

from jinja2 import TemplateError

from prag_core.corpus.documents import Document
from prag_core.corpus.text_tokens import encode, plain
from prag_core.model.wordings import CONVERSATION, DEFAULT, Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

# What chat templates that ask for the date are told, so that a prompt is the same on every day.
CLOCK = datetime(2024, 7, 26)
DIRECTIVES = "aAbBdHIjmMpSUwWyY"  # of strftime, those that an hour, a day or a name are written by
PLAIN_LEAD = "Answer:"  # where no chat template ends the user's turn


@dataclass(frozen=True)
class Continuation:
    """A text to go on from as it is, without chat format.

    Attributes:
        text: the text.
        verbatim: its control tokens are meant as such, a first one included: it was token ids.
    """

    text: str
    verbatim: bool = False


Passages = Sequence[Document]
Conversation = Sequence[Mapping[str, str]]  # turns with `role` and `content`, the last a user's
Question = Union[str, Conversation, Continuation]  # noqa: UP007 (evaluated on Python 3.10)


def plain_question(question: Question) -> str:
    """Return what is asked: of a conversation, its last turn."""
    if isinstance(question, Continuation):
        return question.text
    return question if isinstance(question, str) else question[-1]["content"]


def prompt_id(wording: Wording, question: Question = "", tokenizer: Tokenizer | None = None) -> str:
    """Name the wording that a question is asked in; it changes when the wording does.

    Adapters and checkpoints record the id of the prompt that they were made for, that of a plain
    question. Where the tokenizer's chat template shows the date, that is part of the wording.
    """
    if isinstance(question, Continuation):
        return "continuation"
    if not isinstance(question, str) and len(question) > 1:
        return CONVERSATION.name
    template = str(tokenizer.chat_template or "") if tokenizer else ""
    dated = "strftime_now" in template or "date_string" in template
    return f"{wording.id}-{CLOCK:%Y%m%d}" if dated else wording.id


def write_prompt(
    tokenizer: Tokenizer,
    question: Question,
    passages: Passages = (),
    wording: Wording = DEFAULT,
) -> str:
    """Write the whole prompt of a question, a conversation or a text to go on from.

    A conversation of one turn is a question, as adapters are trained for it. A longer one keeps its
    turns; passages are put into the last.

    Args:
        tokenizer: whose chat format it is in.
        question: what is asked.
        passages: shown before it.
        wording: of a question; its lead begins the answer to a conversation, too.

    Raises:
        ValueError: turns that the chat template refuses.
    """
    if isinstance(question, Continuation):
        shown = plain(tokenizer, "".join(f"{passage.text}\n\n" for passage in passages))
        text = question.text if question.verbatim else plain(tokenizer, question.text)
        begins = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        if begins and question.verbatim:  # ids may bring their first token along
            text = text.removeprefix(tokenizer.bos_token)
        return (tokenizer.bos_token if begins else "") + shown + text
    text = plain_question(question)
    if isinstance(question, str) or len(question) == 1:
        return question_prompt(tokenizer, text, passages, wording)
    if passages:
        text = wording.fill(text, format_passages(passages, not wording.untitled))
    return _chat(tokenizer, [*question[:-1], {**question[-1], "content": text}]) + wording.lead


def question_prompt(
    tokenizer: Tokenizer, question: str, passages: Passages = (), wording: Wording = DEFAULT
) -> str:
    """Build the prompt for one question, with passages or without, up to where its answer begins.

    A tokenizer without chat template gets plain text, which always has a lead: "Answer:".
    """
    turns = [
        {"role": role, "content": text}
        for pair in wording.turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    asked = wording.fill(question, format_passages(passages, not wording.untitled))
    if tokenizer.chat_template:
        return _chat(tokenizer, [*turns, {"role": "user", "content": asked}]) + wording.lead
    texts = [plain(tokenizer, text) for text in (*(turn["content"] for turn in turns), asked)]
    return f"{tokenizer.bos_token or ''}{chr(10).join(texts)}\n{wording.lead or PLAIN_LEAD}"


def format_passages(passages: Sequence[Document], titles: bool = True) -> str:
    """Number the passages and put their titles before them."""
    titled = [f"{p.title}: {p.text}" if titles and p.title else p.text for p in passages]
    return "\n".join(f"Passage {number}: {text}" for number, text in enumerate(titled, 1))


def chat(tokenizer: Tokenizer, user: str) -> str:
    """Format one user turn, up to where the assistant's answer begins.

    A tokenizer without chat template gets plain text. Encode the result with `prompt_ids`: it holds
    the special tokens already.
    """
    if tokenizer.chat_template:
        return _chat(tokenizer, [{"role": "user", "content": user}])
    return f"{tokenizer.bos_token or ''}{plain(tokenizer, user)}\n{PLAIN_LEAD}"


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Tokenise a whole prompt: the special tokens of its format are tokens, a user's are text."""
    return encode(tokenizer, [prompt])[0]


def _chat(tokenizer: Tokenizer, turns: Conversation) -> str:
    """Format a conversation by the chat template, or as lines of plain text."""
    turns = [{name: plain(tokenizer, text) for name, text in turn.items()} for turn in turns]
    if not tokenizer.chat_template:
        lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
        return "\n".join([f"{tokenizer.bos_token or ''}{lines[0]}", *lines[1:], "Assistant:"])
    try:
        return _render(tokenizer, turns)
    except TemplateError as error:
        if len(turns) > 1 and turns[0]["role"] == "system" and turns[1]["role"] == "user":
            # Gemma's template takes no system's turn: its text belongs at the head of the user's.
            content = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            with suppress(TemplateError):
                return _render(tokenizer, [{**turns[1], "content": content}, *turns[2:]])
        raise ValueError(
            f"got a conversation that the model's chat template refuses ({error}), expected "
            "turns of user and assistant in alternation: correct their order"
        ) from error


def _render(tokenizer: Tokenizer, turns: Conversation) -> str:
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        # A macro goes before the function of this name, which reads the present time.
        steps = "".join(f" | replace('%{d}', '{CLOCK.strftime('%' + d)}')" for d in DIRECTIVES)
        macro = "{% macro strftime_now(format) %}{{ format" + steps + " }}{% endmacro +%}"
        template = macro + template
    return tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,  # read by Qwen3's template and its kin: short answers, no monologue
        date_string=f"{CLOCK:%d %b %Y}",  # Llama 3's
    )
