"""Scores of a network: its parametrizer and questions go in, an evaluation's report comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypernet.generation.parametrizer import HypernetParametrizer
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.results import Report
from prag_core.pipeline.rag import ParametricRAG


def score_network(
    parametrizer: HypernetParametrizer,
    question_set: QuestionSet,
    conditions: Sequence[str],
    folder: Path | str,
) -> Report:
    """Answer every question from its gold document, as `prag evaluate` does; resumable.

    Args:
        parametrizer: makes the adapters.
        question_set: questions with a gold document each.
        conditions: see `prag_core.evaluation.conditions`.
        folder: gets adapters, answers and results.
    """
    # From the gold document alone: what is scored is the network, not a retriever.
    options = EvaluationOptions(tuple(conditions), k=1, retrieval="gold")
    # Answers of other weights are not gone on with.
    config = {"parametrizer": parametrizer.fingerprint}
    with AdapterStore(Path(folder) / "store") as store:
        rag = ParametricRAG(parametrizer.base, parametrizer=parametrizer, store=store)
        return evaluate(rag, question_set, options, folder, config)
