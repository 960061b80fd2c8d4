"""Kept passages of the embedded 135M model, for real: another process answers from the files."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from prag_core.corpus.question_sets import demo_question_set
from prag_core.model.base_model import load_base_model
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import AnswerOptions
from prag_core.retrieval.retriever import Hit

COUNT = 4


def ask(mode: str, kept: Path, answers) -> None:
    """Answer some of the demo's questions, each from its own document."""
    whole = demo_question_set()
    questions = {q.gold_ids[0]: q for q in whole.questions}  # one a document
    rows = [(q.question, [Hit(i, 1.0)]) for i, q in list(questions.items())[:COUNT]]
    # In bfloat16 the rounding of a batch depends on its shape and turns near ties.
    answerer = Answerer(
        load_base_model(dtype="float32"), whole.documents_by_id.__getitem__, {}.__getitem__,
        options=AnswerOptions(prompt="short"), kept=kept,
    )  # fmt: skip
    texts, hits = zip(*rows, strict=True)
    if mode == "in_context":
        answerer.keep_passages(row[0].document_id for row in hits)
    answers.put([answer.text for answer in answerer.answer(texts, hits, mode)])


@pytest.mark.slow
def test_another_process_answers_from_the_files_as_in_context(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers, times = context.SimpleQueue(), []
    for mode in ("in_context", "kv_cache"):
        process = context.Process(target=ask, args=(mode, tmp_path, answers))
        process.start()
        process.join()
        assert process.exitcode == 0
        times.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    assert times[0] == times[1] and len(times[0]) == COUNT  # nothing was read again
    read, kept = answers.get(), answers.get()
    assert kept == read and len({*read}) == COUNT
