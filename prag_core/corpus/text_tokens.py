"""Text tokens: texts of users go in, token ids in which no control token stands come out.

Chat formats steer a model by tokens that have a text of their own, `<|im_end|>` or `</s>`, and a
tokenizer reads that text as the token wherever it stands: a document could end a user's turn. What
users write goes through `plain`, whatever it becomes: a prompt, a document to encode, an answer to
train on. A text without such tokens keeps the ids that the tokenizer gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Behind the first character of a control token that is meant as text: there `encode` cuts. Unicode
# keeps it out of texts for ever (a noncharacter); one that comes nevertheless is taken out.
BREAK = "\ufdd0"
# What an added token looks like that steers a model though it is not marked as special (`<think>`,
# `[INST]`); not so a run of spaces, or a word that a vocabulary was extended by.
STEERING = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters: tokenizers refuse them


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a user's text as it may stand in a prompt: `encode` reads no control token in it."""
    text = SURROGATES.sub("\ufffd", text.replace(BREAK, ""))
    return _control_tokens(tokenizer, len(tokenizer)).sub(rf"\g<0>{BREAK}", text)


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Tokenise texts of users; no special tokens are added."""
    return encode(tokenizer, [plain(tokenizer, text) for text in texts])


def encode(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Tokenise prompts, in which texts of users are `plain`; no special tokens are added."""
    if not prompts:  # tokenizers refuse an empty batch
        return []

    def ids(texts: list[str]) -> list[list[int]]:
        # verbose=False: no warning of a text beyond the context; whoever asks cuts or refuses it.
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    pieces = [prompt.split(BREAK) for prompt in prompts]
    rows = ids([head for head, *_ in pieces])
    (line_break,) = ids(["\n"])
    for row, (_, *tail) in zip(rows, pieces, strict=True):
        for piece in filter(None, tail):
            # Behind a line break, which goes again: SentencePiece puts a space before what begins.
            (after,) = ids(["\n" + piece])
            begins = after[: len(line_break)] == line_break
            row += after[len(line_break) :] if begins else ids([piece])[0]
    return rows


def ids_behind(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """Tokenise a `plain` text as it stands behind another character, without that one.

    SentencePiece would put a space of its own before a text that begins alone.
    """
    if not text.startswith(" "):
        return encode(tokenizer, [text])[0]
    head, whole = encode(tokenizer, [before, before + text])
    return whole[len(head) :] if whole[: len(head)] == head else encode(tokenizer, [text])[0]


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> re.Pattern[str]:
    """Match the first character of every control token, also of those that overlap.

    With the vocabulary's size as an argument: tokens may be added to a tokenizer later.
    """
    added = tokenizer.added_tokens_decoder.values()
    texts = [t.content for t in added if t.special or STEERING.fullmatch(t.content)]
    texts = [text for text in texts if len(text) > 1 and not text.isspace()]
    if not texts:
        return re.compile("(?!)")  # matches nothing
    first = "".join(sorted({re.escape(text[0]) for text in texts}))
    # The class alone decides at most places of a text; a look ahead takes no character.
    return re.compile(f"(?=[{first}])(?={'|'.join(map(re.escape, texts))}).", re.DOTALL)
