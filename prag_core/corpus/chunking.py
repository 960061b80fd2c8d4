"""Chunking: a document goes in, documents of a bounded number of tokens come out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from prag_core.corpus.documents import Document, as_documents
from prag_core.corpus.text_tokens import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What the generated path encodes at once. On 8 SQuAD articles of 3,300 to 4,000 tokens and 40
# questions the reply holds the golden answer in 17.5 % from one adapter of the whole, 17.5 % from
# one chunk, 30.0 % from three chunks (95 % interval 16 to 45); three wholes were not measured.
CHUNK_TOKENS = 384
SENTENCE_END = re.compile(
    r"""
    (?<!\b[A-Z])(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bNo)  # Dr. J. Doe
    [.!?]+["'”’)\]]*(?=\s)      # a full stop with what closes after it
    | [。！？]+                   # scripts that put no space after it
    | \n+                       # a line break
    """,
    re.VERBOSE,
)
TokenCounts = Callable[[list[str]], list[int]]  # texts go in, the tokens of each come out


@dataclass(frozen=True)
class _Piece:
    """A span of the text that a chunk takes whole: characters start to end."""

    start: int
    end: int
    tokens: int
    opens_sentence: bool = True


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
    text, count = document.text, partial(_token_counts, tokenizer)
    pieces = _pieces(text, count, max_tokens)
    # Pieces a to b have total[b] - total[a] tokens: nothing is counted twice.
    total = [0, *itertools.accumulate(piece.tokens for piece in pieces)]
    texts, first = [], 0
    while first < len(pieces):
        last = first + 1
        while last < len(pieces) and total[last + 1] - total[first] <= max_tokens:
            last += 1
        # Tokens of the parts do not add up exactly to the tokens of the whole.
        while last > first + 1 and count([_cut(text, pieces[first:last])])[0] > max_tokens:
            last -= 1
        texts.append(_cut(text, pieces[first:last]))
        if last == len(pieces):
            break
        # The next chunk also needs room for a new piece, or it would add nothing.
        repeated = min(overlap, max_tokens - pieces[last].tokens)
        openings = (i for i in range(first + 1, last) if pieces[i].opens_sentence)
        first = next((i for i in openings if total[last] - total[i] <= repeated), last)
    parent = {**document.metadata, "parent": document.id}
    # An empty chunk (pieces of space alone) takes no number: positions have no gap.
    numbered = enumerate(filter(None, texts))
    return [replace(document, text=t, metadata={**parent, "chunk": n}) for n, t in numbered]


def chunk_documents(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    overlap: int = 0,
) -> list[Document]:
    """Cut many documents with `chunk_document`, in order; the errors are the same."""
    chunks = (chunk_document(d, tokenizer, max_tokens, overlap) for d in as_documents(documents))
    return list(itertools.chain.from_iterable(chunks))


def is_chunk(document: Document) -> bool:
    """Return whether a document was cut out of a longer one, whose id is its `parent`."""
    return isinstance(document.metadata.get("parent"), str)  # another value is somebody's field


def whole_id(document: Document) -> str:
    """Return the id of the document that a chunk was cut out of; of no chunk its own."""
    return document.metadata["parent"] if is_chunk(document) else document.id


def long_documents(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> list[Document]:
    """Return those of more than CHUNK_TOKENS tokens that are no chunks themselves."""
    count = partial(_token_counts, tokenizer)
    # Bytes first: no token has less than one, and most documents are short.
    candidates = [d for d in documents if len(d.text.encode()) > CHUNK_TOKENS]
    return [d for d in candidates if not is_chunk(d) and count([d.text])[0] > CHUNK_TOKENS]


def _token_counts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    return [len(ids) for ids in text_ids(tokenizer, texts)]


def _pieces(text: str, count: TokenCounts, max_tokens: int) -> list[_Piece]:
    """Cut a text into sentences, and only those of more than max_tokens further."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    pieces = []
    for sentence in _spans(text, 0, len(text), ends, count):
        long = sentence.tokens > max_tokens
        pieces += _hard_cut(text, sentence, count, max_tokens) if long else [sentence]
    return pieces


def _hard_cut(text: str, sentence: _Piece, count: TokenCounts, max_tokens: int) -> list[_Piece]:
    """Cut a sentence between words, and a word that is still too long in halves."""
    start, end = sentence.start, sentence.end
    word_ends = [start + match.end() for match in re.finditer(r"\S+", text[start:end])]
    words = _spans(text, start, end, word_ends, count)[::-1]  # a stack
    pieces: list[_Piece] = []
    while words:
        word = words.pop()
        if word.tokens > max_tokens and word.end - word.start > 1:
            middle = (word.start + word.end) // 2
            # Reversed: the left half is taken first, so that pieces stay in the text's order.
            words += _spans(text, word.start, word.end, [middle], count)[::-1]
        elif (
            pieces
            # The sum is cheap and mostly right; only where it fits, the whole is counted.
            and pieces[-1].tokens + word.tokens <= max_tokens
            and count([text[pieces[-1].start : word.end].strip()])[0] <= max_tokens
        ):
            pieces[-1] = replace(pieces[-1], end=word.end, tokens=pieces[-1].tokens + word.tokens)
        else:
            pieces.append(replace(word, opens_sentence=not pieces))
    return pieces


def _spans(text: str, start: int, end: int, cuts: list[int], count: TokenCounts) -> list[_Piece]:
    """Return the spans between cuts with their tokens; a space counts with the word after it."""
    borders = list(itertools.pairwise(sorted({start, end, *cuts})))
    if not borders:  # an empty text: tokenizers refuse an empty batch
        return []
    parts = [text[a:b] for a, b in borders]
    # At the start of a chunk the space goes, and the first word may take more tokens. All in one
    # call: a fast tokenizer takes a batch in a fraction of the time of single texts.
    counts = count([*parts, *(part.strip() for part in parts)])
    within, first = counts[: len(parts)], counts[len(parts) :]
    return [_Piece(*border, max(n)) for border, *n in zip(borders, within, first, strict=True)]


def _cut(text: str, pieces: Sequence[_Piece]) -> str:
    return text[pieces[0].start : pieces[-1].end].strip()
