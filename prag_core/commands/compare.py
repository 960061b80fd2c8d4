"""Compare: documents go in; trained and generated adapters are set side by side in a report."""

from __future__ import annotations

import random
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from prag_core.corpus.documents import read_documents
from prag_core.corpus.question_sets import QuestionSet, load_question_set
from prag_core.evaluation.compare.options import CompareOptions
from prag_core.evaluation.compare.run import compare_paths
from prag_core.files import write_json
from prag_core.pipeline.parts import Setup


def compare(
    source: str,
    setup: Setup,
    output: str = "runs/compare",
    store: str = "",
    comparison: CompareOptions = CompareOptions(),  # noqa: B008 (frozen)
    documents: int = 0,
    split: str = "",
    skip_bad: bool = False,
    logger: Literal["none", "wandb"] = "none",
) -> None:
    """Compare trained with generated adapters: quality, side effects, merging, cost.

    Writes report.json and report.html, which needs nothing beside it; a second run goes on where
    the first ended.

    Args:
        source: question set (see `prag evaluate`), or documents alone (see `prag parametrize`).
        setup: shared settings; comparison.paths stands in for `path`.
        output: folder for answers, parts and the report.
        store: folder of the adapter store; `<output>/store` when empty.
        comparison: what is compared.
        documents: draw so many documents (with all their questions); 0 takes all.
        split: split of the question set, where it has several.
        skip_bad: leave out bad records and questions whose gold documents are missing.
        logger: `wandb` also logs numbers and figures to Weights & Biases, offline by default.
    """
    from prag_core.evaluation.report.page import write_report_page  # matplotlib takes a second
    from prag_core.evaluation.report.tables import terminal_lines

    folder, console = Path(output), Console()
    chosen = _load(source, split, skip_bad)
    if documents:
        chosen = _sample(chosen, documents, comparison.seed)
    report = compare_paths(chosen, setup, comparison, folder, store)
    # So that a report, passed on alone, says how it was made.
    report["command"] = shlex.join(["prag", *sys.argv[1:]])
    write_json(folder / "report.json", report)
    write_report_page(report, folder / "report.html")
    for line in terminal_lines(report):
        console.print(line)
    if logger == "wandb":
        from prag_core.evaluation.report.wandb_run import log_to_wandb

        log_to_wandb(report, folder)
    console.print(f"report in {folder / 'report.html'}, numbers in {folder / 'report.json'}")


def _load(source: str, split: str, skip_bad: bool) -> QuestionSet:
    """Load a question set, or documents without questions."""
    path = Path(source)
    # A folder of text files has neither; it is compared without questions.
    stems = (split or "questions", "queries")
    if path.is_dir() and not any(path.glob(f"{stem}.jsonl*") for stem in stems):
        return QuestionSet(path.resolve().name, tuple(read_documents(path, skip_bad)), ())
    if path.is_file():
        try:
            return load_question_set(source, split, skip_bad=skip_bad)
        except ValueError as no_questions:
            try:
                documents = read_documents(path, skip_bad)
            except ValueError as no_documents:
                raise ValueError(
                    f"got {source}, neither questions ({no_questions}) nor documents "
                    f"({no_documents}), expected one of both"
                ) from no_documents
        return QuestionSet(path.resolve().name.split(".")[0], tuple(documents), ())
    return load_question_set(source, split, skip_bad=skip_bad)


def _sample(chosen: QuestionSet, count: int, seed: int) -> QuestionSet:
    if chosen.questions:
        return chosen.sample(count, seed)
    if not 1 <= count <= len(chosen.documents):
        raise ValueError(
            f"got documents {count}, expected 1 to {len(chosen.documents)}, as many as "
            f"{chosen.name} has: ask for fewer"
        )
    return replace(chosen, documents=tuple(random.Random(seed).sample(chosen.documents, count)))
