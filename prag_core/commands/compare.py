"""Compare: documents go in; trained and generated adapters are set side by side in a report."""

from __future__ import annotations

import random
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from prag_core.corpus.documents import read_documents, require_all_read
from prag_core.corpus.question_sets import QuestionSet, load_question_set
from prag_core.evaluation.compare.options import CompareOptions
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup


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
    from prag_core.evaluation.compare.run import compare_paths
    from prag_core.evaluation.report.page import write_report_page  # matplotlib takes a second
    from prag_core.evaluation.report.tables import terminal_lines

    folder, console = Path(output), Console()
    whole = part = _load(source, split, skip_bad)
    if documents:
        part = _sample(whole, documents, comparison.seed)
    report = compare_paths(part, setup, comparison, folder, store, whole.documents)
    # Beside the numbers, so that a page says how to get it again.
    report["command"] = shlex.join(["prag", *sys.argv[1:]])
    write_json(folder / "report.json", report)
    write_report_page(report, folder / "report.html")
    for line in terminal_lines(report):
        console.print(line)
    # Last: the report is on the disk if it fails.
    if logger == "wandb":
        from prag_core.evaluation.report.wandb_run import log_to_wandb

        log_to_wandb(report, folder)
    print(f"report in {folder / 'report.html'}, numbers in {folder / 'report.json'}")


def _load(source: str, split: str, skip_bad: bool) -> QuestionSet:
    """Load a question set, or documents without questions."""
    path = Path(source)
    try:
        return load_question_set(source, split, skip_bad=skip_bad)
    except ValueError as no_questions:
        # A folder that has questions is none of documents alone: what is wrong there is told.
        stems = (split or "questions", "queries")
        if not path.exists() or any(any(path.glob(f"{stem}.jsonl*")) for stem in stems):
            raise
        try:
            counts: Counter[str] = Counter()
            documents = read_documents(path, skip_bad, counts)
            require_all_read(path, skip_bad, counts)
        except ValueError as no_documents:
            raise ValueError(
                f"got {source}, neither questions ({no_questions}) nor documents "
                f"({no_documents}), expected one of both: correct it"
            ) from no_documents
    return QuestionSet(path.resolve().name.split(".")[0], tuple(documents), ())


def _sample(whole: QuestionSet, count: int, seed: int) -> QuestionSet:
    # Documents that nobody asks about are not drawn, where there are questions.
    if whole.questions:
        return whole.sample(count, seed)
    if not 1 <= count <= len(whole.documents):
        raise ValueError(
            f"got documents {count}, expected 1 to {len(whole.documents)}, as many as "
            f"{whole.name} has: ask for fewer"
        )
    return replace(whole, documents=tuple(random.Random(seed).sample(whole.documents, count)))
