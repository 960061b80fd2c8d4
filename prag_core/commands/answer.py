"""Answer: questions and a store go in; answers and the documents behind them come out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from prag_core.commands.store import STORE
from prag_core.files import write_json
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import build_pipeline


def answer(
    question: str,
    setup: Setup,
    store: str = STORE,
    mode: Literal["closed_book", "in_context", "da_rag", "parametric", "combine", "sft"] = (
        "parametric"
    ),
    k: int = 3,
    output: str = "",
    where: dict[str, str | int | float] | None = None,
) -> None:
    """Answer questions from the documents of a store.

    Args:
        question: the question, or "-" for one question a line on standard input.
        setup: shared settings.
        store: folder of the adapter store.
        mode: how to answer.
        k: documents a question.
        output: write the answers to this JSON lines file too.
        where: metadata that a document needs to be found, e.g. '{"year": 1901}'.
    """
    # Standard input may hold thousands of questions: the model is loaded once for all of them.
    questions = [line.strip() for line in sys.stdin] if question == "-" else [question]
    questions = [line for line in questions if line]
    if not questions:
        raise ValueError("got no question, expected one: give it as an argument or one a line")
    # None: a store on a read-only mount answers too.
    with build_pipeline(setup, store, readonly=None) as rag:
        answers = rag.answer(questions, mode, k, where=where)
    for reply in answers:  # first the answer, then what it was made from
        print(reply.text)
        for hit in reply.documents:
            print(f"  {hit.score:8.3f}  {rag.documents[hit.document_id].title or hit.document_id}")
        for note in reply.notes:
            print(f"  note: {note}")
    if output:
        _write_with_config(Path(output), [asdict(reply) for reply in answers], setup)


def _write_with_config(path: Path, rows: list[dict], setup: Setup) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, "utf-8")
    # The resolved settings, so that the answers can be made again.
    write_json(path.with_suffix(".config.json"), asdict(setup))
