"""Evaluate a pipeline: adapters that the modes need are made, then the questions are asked."""

from __future__ import annotations

from pathlib import Path

from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.assignment import assign_documents
from prag_core.evaluation.evaluate import chosen_questions
from prag_core.evaluation.evaluate import evaluate as run_evaluation
from prag_core.evaluation.options import EvaluationOptions
from prag_core.evaluation.results import SHUFFLED, Report
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import ParametricRAG
from prag_core.terminal import progress_bar


def evaluate_pipeline(
    rag: ParametricRAG,
    question_set: QuestionSet,
    options: EvaluationOptions,
    folder: Path,
    setup: Setup,
) -> Report:
    """Make the adapters that the modes need, then answer, score and write the results."""
    rag.add_documents(question_set.documents, parametrize=False)
    questions = chosen_questions(question_set.questions, options)
    needed: dict[str, None] = {}
    for mode in {"parametric", "combine", SHUFFLED}.intersection(options.modes):
        rows = assign_documents(rag, question_set, questions, mode, options)
        if rows is None:
            hits = rag.retrieve([q.question for q in questions], options.k)
            rows = [[hit.document_id for hit in row] for row in hits]
        needed |= dict.fromkeys(i for row in rows for i in row)
    if needed:
        with progress_bar("adapters", len(needed)) as advance:
            rag.ensure_adapters(needed, advance)
    if "sft" in options.modes:
        rag.train_global()
    config = setup.answer_config() | {"base_fingerprint": rag.base.fingerprint}
    config["parametrizer"] = getattr(rag.parametrizer, "fingerprint", None)
    return run_evaluation(rag, question_set, options, folder, config)
