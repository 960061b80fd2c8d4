"""Decoding rows: a prompt with its adapter and options goes in, its text grows token by token."""

from __future__ import annotations

import torch

from prag_core.adapters.adapter import Adapter
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix
from prag_core.model.prompts import prompt_ids


class Row:
    """One prompt with its adapter, and its text as far as it is decoded.

    Attributes:
        prompt_tokens: length of the prompt.
        start: first token of the prompt that is to be read; those before it are the prefix's.
        tokens: tokens decoded, an end token included.
        finish: "" while it is decoded, then `stop` or `length`, as OpenAI's API names them.
        answer: its text, where nothing is to be decoded.
    """

    def __init__(
        self,
        base: BaseModel,
        prompt: str,
        adapter: Adapter | None = None,
        options: GenerationOptions | None = None,
        prefix: Prefix | None = None,
        at_once: tuple[str, ...] = (),
    ) -> None:
        """Tokenise the prompt (special tokens included).

        As far as the prompt begins as the prefix does, its keys and values are taken from there.
        For stop strings `at_once` see `RowText`.

        Raises:
            ValueError: an empty prompt, or one that leaves no room for an answer in the context.
        """
        if not prompt:
            raise ValueError("got an empty prompt, expected text: leave it out")
        self.adapter, self.options, self.answer = adapter, options or GenerationOptions(), ""
        self.ids = prompt_ids(base.tokenizer, prompt)
        self.prefix, self.start = prefix, prefix.common(self.ids) if prefix else 0
        self.prompt_tokens, self.tokens, self.finish = len(self.ids), 0, ""
        room = base.context_length - self.options.max_new_tokens
        if self.prompt_tokens > room:
            raise ValueError(
                f"got a prompt of {self.prompt_tokens} tokens, expected at most {room} (context "
                f"{base.context_length} less max_new_tokens {self.options.max_new_tokens}): ask a "
                "shorter question, or for a shorter answer"
            )
        self.text = RowText(base, self.options.stop, at_once)
        # Of the row alone: an answer does not depend on who is decoded beside it.
        self.generator = torch.Generator(base.device).manual_seed(self.options.seed)

    def push(self, token: int) -> str:
        """Take a token, return the text that became final."""
        self.tokens += 1
        piece = self.text.push(token)
        if self.text.done:
            self.finish = "stop"
        elif self.tokens == self.options.max_new_tokens:
            self.finish = "length"
            piece += self.text.flush()
        return piece


class RowText:
    """Text of one row while it is decoded; holds back what a stop string might still cut."""

    def __init__(
        self, base: BaseModel, stop: tuple[str, ...], at_once: tuple[str, ...] = ()
    ) -> None:
        """Start without text.

        Stop strings of white space end nothing before the first word, but for those `at_once`.
        """
        self.tokenizer, self.stop = base.tokenizer, [s for s in stop if s]  # "" is found everywhere
        self.late = {s for s in stop if s.isspace()} - {*at_once}
        self.tokens: list[int] = []
        self.sent, self.done = 0, False
        self.ends = end_tokens(base)

    def push(self, token: int) -> str:
        """Take a token, return the text that became final."""
        if self.done:
            return ""
        if token in self.ends:
            return self.flush()
        self.tokens.append(token)
        text = self._text()  # whole each time: a token's text depends on the tokens before it
        begin = len(text) - len(text.lstrip())  # a line break before the answer ends nothing
        cuts = [text.find(s, begin if s in self.late else 0) for s in self.stop]
        if ends := [cut for cut in cuts if cut >= 0]:
            return self._send(text[: min(ends)], last=True)
        text = text.rstrip("\ufffd")  # bytes of an unfinished UTF-8 sequence
        overlap = max((_overlap(text, s) for s in self.stop), default=0)
        return self._send(text[: len(text) - overlap])

    def flush(self) -> str:
        """End the row and return what was held back."""
        return "" if self.done else self._send(self._text(), last=True)

    def _text(self) -> str:
        # Cleaning up spaces would change text that was sent already.
        as_it_is = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return self.tokenizer.decode(self.tokens, **as_it_is)

    def _send(self, text: str, last: bool = False) -> str:
        # The text may be shorter than what was sent, where a stop string cuts into it.
        piece, self.sent = text[self.sent :], max(self.sent, len(text))
        self.done = last
        return piece


def end_tokens(base: BaseModel) -> set[int]:
    """Return the ids that end a text: the tokenizer's and those of the generation config.

    The token that begins a text (in some chat formats: a turn) ends the one before it as well.
    """
    configured = base.model.generation_config.eos_token_id  # None, a number or a list
    ends = configured if isinstance(configured, list) else [configured]
    return {base.tokenizer.eos_token_id, base.tokenizer.bos_token_id, *ends} - {None}


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
