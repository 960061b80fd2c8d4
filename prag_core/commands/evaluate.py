"""Evaluate: a question set goes in; answers, scores and a table come out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from prag_core.corpus.question_sets import load_question_set
from prag_core.evaluation.options import EvaluationOptions
from prag_core.evaluation.pipeline_run import evaluate_pipeline
from prag_core.evaluation.results import format_table
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import build_pipeline


def evaluate(
    question_set: str,
    setup: Setup,
    output: str = "runs/evaluate",
    store: str = "",
    evaluation: EvaluationOptions = EvaluationOptions(),  # noqa: B008 (frozen)
    documents: int = 0,
    split: str = "",
    skip_bad: bool = False,
) -> None:
    """Score every mode on a question set, with intervals and controls; resumable.

    Args:
        question_set: folder, file, or hub name (see the README for the formats).
        setup: shared settings.
        output: folder for answers, resolved config and results.
        store: folder of the adapter store; `<output>/store` when empty.
        evaluation: modes, documents a question, sample.
        documents: draw so many documents with all their questions (seed: evaluation.seed); 0
            takes all. The retriever then searches these documents only.
        split: split of the question set, where it has several.
        skip_bad: leave out bad records and questions whose gold documents are missing.
    """
    sample = load_question_set(question_set, split, skip_bad=skip_bad)
    if documents:
        sample = sample.sample(documents, evaluation.seed)
    with build_pipeline(setup, store or Path(output) / "store", sample.documents) as rag:
        report = evaluate_pipeline(rag, sample, evaluation, Path(output), setup)
    Console().print(format_table(report))
