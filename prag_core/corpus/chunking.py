"""Chunking: a document goes in, documents of a bounded number of tokens come out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prag_core.corpus.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCE_END = re.compile(
    r"""
    (?<!\b[A-Z])(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bNo)  # Dr. J. Doe
    [.!?]+["'”’)\]]*(?=\s)      # a full stop with what closes after it
    | [。！？]+                   # scripts that put no space after it
    | \n+                       # a line break
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Piece:
    """A span of the text that a chunk takes whole: characters start to end."""

    start: int
    end: int
    tokens: int
    opens_sentence: bool


def chunk_document(
    document: Document, tokenizer: PreTrainedTokenizerBase, max_tokens: int, overlap: int = 0
) -> list[Document]:
    """Cut a document into chunks of at most max_tokens tokens, each ending with a sentence.

    A chunk repeats the last whole sentences of the one before it, up to `overlap` tokens. A
    sentence of more than max_tokens is cut between words, a word of more between characters.
    The title stays on every chunk (it does not count) and metadata tells the parent and position.

    Raises:
        ValueError: max_tokens below 1, or overlap outside 0 to max_tokens - 1.
    """
    if max_tokens < 1 or not 0 <= overlap < max_tokens:
        raise ValueError(
            f"got max_tokens {max_tokens} and overlap {overlap}, expected "
            "max_tokens >= 1 and 0 <= overlap < max_tokens: correct them"
        )
    text = document.text
    pieces = _pieces(text, tokenizer, max_tokens)
    total = [0, *itertools.accumulate(piece.tokens for piece in pieces)]
    texts, first = [], 0
    while first < len(pieces):
        last = first + 1
        while last < len(pieces) and total[last + 1] - total[first] <= max_tokens:
            last += 1
        # Tokens of the parts do not add up exactly to the tokens of the whole.
        while last > first + 1 and _count(_cut(text, pieces[first:last]), tokenizer) > max_tokens:
            last -= 1
        texts.append(_cut(text, pieces[first:last]))
        if last == len(pieces):
            break
        first = next(
            (
                i
                for i in range(first + 1, last)
                if pieces[i].opens_sentence
                and total[last] - total[i] <= overlap
                and total[last + 1] - total[i] <= max_tokens  # or the next would add nothing
            ),
            last,
        )
    return [
        replace(
            document,
            text=chunk,
            metadata={**document.metadata, "parent": document.id, "chunk": number},
        )
        for number, chunk in enumerate(chunk for chunk in texts if chunk)
    ]


def chunk_documents(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    overlap: int = 0,
) -> list[Document]:
    """Cut many documents with `chunk_document`, in order."""
    return [
        chunk
        for document in documents
        for chunk in chunk_document(document, tokenizer, max_tokens, overlap)
    ]


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[_Piece]:
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    pieces = []
    for start, end, tokens in _spans(text, 0, len(text), ends, tokenizer):
        if tokens <= max_tokens:
            pieces.append(_Piece(start, end, tokens, True))
        else:
            pieces += _hard_cut(text, start, end, tokenizer, max_tokens)
    return pieces


def _hard_cut(
    text: str, start: int, end: int, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[_Piece]:
    """Cut a span between words, and a word that is still too long in halves."""
    word_ends = [start + match.end() for match in re.finditer(r"\S+", text[start:end])]
    words = list(_spans(text, start, end, word_ends, tokenizer))[::-1]  # a stack
    pieces = []
    while words:
        first, last, tokens = words.pop()
        if tokens > max_tokens and last - first > 1:
            middle = (first + last) // 2
            words += reversed(list(_spans(text, first, last, [middle], tokenizer)))
        elif (
            pieces
            and pieces[-1].tokens + tokens <= max_tokens
            and _count(text[pieces[-1].start : last].strip(), tokenizer) <= max_tokens
        ):
            pieces[-1] = replace(pieces[-1], end=last, tokens=pieces[-1].tokens + tokens)
        else:
            pieces.append(_Piece(first, last, tokens, opens_sentence=not pieces))
    return pieces


def _spans(
    text: str,
    start: int,
    end: int,
    cuts: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, tokens) between cuts; a space counts with the word after it."""
    borders = sorted({start, end, *cuts})
    spans = list(itertools.pairwise(borders))
    if not spans:
        return
    parts = [text[a:b] for a, b in spans]
    # At the start of a chunk the space goes, and the first word may take more tokens.
    parts += [part.strip() for part in parts]
    encoded = tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"]
    for (a, b), within, first in zip(
        spans, encoded[: len(spans)], encoded[len(spans) :], strict=True
    ):
        yield a, b, max(len(within), len(first))


def _count(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _cut(text: str, pieces: Sequence[_Piece]) -> str:
    return text[pieces[0].start : pieces[-1].end].strip()
