"""Answer: questions and a store go in; answers and the documents behind them come out."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from prag_core.commands.store import STORE
from prag_core.corpus.documents import Document
from prag_core.corpus.records import text_lines
from prag_core.files import json_bytes, write_json
from prag_core.pipeline.answers import Answer
from prag_core.pipeline.setup import Setup

KEPT = 256  # questions answered before the first of them is printed and written
ModeName = Literal[
    "closed_book", "in_context", "in_context_rows", "kv_cache", "reader", "da_rag", "parametric",
    "combine", "sft",
]  # fmt: skip


def answer(
    question: str,
    setup: Setup,
    store: str = STORE,
    mode: ModeName = "parametric",
    k: int = 3,
    output: str = "",
    where: dict[str, str | int | float] | None = None,
) -> None:
    """Answer questions from the documents of a store.

    Args:
        question: the question, or "-" for one question a line on standard input; a line that is no
            text is named, and the others are answered.
        setup: shared settings.
        store: folder of the adapter store.
        mode: how to answer (see `prag_core.pipeline.modes`); kv_cache takes --k 1, reader --reader.
        k: documents a question.
        output: write the answers to this JSON lines file too.
        where: metadata that a document needs to be found, e.g. '{"year": 1901}'.
    """
    from prag_core.pipeline.modes import find_mode, gates_passages
    from prag_core.pipeline.rag import build_pipeline, require_text

    # Standard input may hold thousands of questions: the model is loaded once for all of them.
    problems: list[str] = []
    questions = list(_lines(problems)) if question == "-" else [_as_utf8(question)]
    for text in questions:
        require_text("question", text)
    if problems and not questions:
        raise ValueError("; ".join(problems))
    if not questions:
        raise ValueError("got no question, expected one: give it as an argument or one a line")
    how = find_mode(mode)
    reads_only = not (how.needs_parametrizer or gates_passages(how, setup.answering))
    with build_pipeline(setup, store, create=False, reads_only=reads_only) as rag:
        setup = rag.setup or setup  # with the path that the store has
        path = Path(output)
        if output:  # what cannot be written is said before anything is answered
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        for start in range(0, len(questions), KEPT):
            answers = rag.answer(questions[start : start + KEPT], mode, k, where=where)
            if output and not start:  # what is there stays until something is answered
                # The resolved settings, so that the answers can be made again.
                write_json(path.with_suffix(".config.json"), asdict(setup))
                path.write_bytes(b"")
            if output:  # before they are printed: nobody may read on
                rows = (json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in answers)
                with path.open("ab") as file:
                    file.write(json_bytes("".join(rows)))
            for reply in answers:
                _print(reply, rag.documents)
    if problems:  # last: the other questions are answered
        raise ValueError(f"{'; '.join(problems)}: write them in UTF-8, the others are answered")


def _print(reply: Answer, documents: Mapping[str, Document]) -> None:
    """Print the answer, then what it was made from."""
    print(reply.text)
    for hit in reply.documents:
        print(f"  {hit.score:8.3f}  {documents[hit.document_id].title or hit.document_id}")
    for note in reply.notes:
        print(f"  note: {note}")


def _lines(problems: list[str]) -> Iterator[str]:
    """Read questions from standard input, one a line; what is no text is named in `problems`."""

    def reject(where: object, problem: str) -> None:
        problems.append(f"{where}: {problem}")

    # Not every stream has bytes behind its text: one that a program has put there.
    stream = getattr(sys.stdin, "buffer", None)
    content = stream.read() if stream else sys.stdin.read().encode()
    for _, line in text_lines("standard input", io.BytesIO(content), reject):
        if line.strip():
            yield line.strip()


def _as_utf8(word: str) -> str:
    """Read a word of the command line as UTF-8, if it is, whatever encoding the locale names."""
    with suppress(UnicodeError):
        return os.fsencode(word).decode("utf-8")
    return word
