"""Benchmark: a YAML's lists of models, question sets and conditions go in, one table comes out."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from prag_core.evaluation.benchmark_options import BenchmarkModel, BenchmarkSet, expand
from prag_core.pipeline.setup import AdapterPath, Setup

CONDITIONS = ("closed_book", "in_context", "da_rag", "parametric", "combine", "shuffled", "sft")


def benchmark(
    setup: Setup,
    output: str = "runs/benchmark",
    question_sets: tuple[BenchmarkSet, ...] = (),
    base_models: tuple[BenchmarkModel, ...] = (BenchmarkModel(hypernet=Setup.hypernet),),
    paths: tuple[AdapterPath, ...] = ("trained", "generated"),
    conditions: tuple[str, ...] = CONDITIONS,
    seeds: tuple[int, ...] = (0,),
    skip_bad: bool = False,
    render: bool = False,
) -> None:
    """Run a grid of question sets, base models, paths and conditions into one table.

    May be stopped at any time: the same command goes on where it was. A cell that fails is named
    at the end and does not stop the others.

    Args:
        setup: shared settings; base_models and paths stand in for its own.
        output: folder for answers, adapters, table.md and each base model's results.json.
        question_sets: what is asked, and how.
        base_models: who is asked; one is in memory at a time.
        paths: who makes the adapters.
        conditions: ways to answer, as in `prag evaluate`.
        seeds: of samples and controls; answers of all seeds are pooled.
        skip_bad: leave out bad records and questions whose gold documents are missing.
        render: run nothing; write tables and figures of the current folder's Markdown files
            (all README.md, card.md and results.md of checkpoints) anew from the results
            that they name.
    """
    from prag_core.evaluation.benchmark import run_benchmark
    from prag_core.evaluation.benchmark_results import (
        results_markdown,
        results_tables,
        write_results,
    )

    if render:
        _render()
        return
    folder, console = Path(output), Console()
    # Refused here, before anything is loaded or written.
    groups = expand(setup, folder, question_sets, base_models, paths, conditions, seeds)
    failures = run_benchmark(groups, folder, skip_bad)
    # From the files of all cells, those of earlier runs included.
    paths_of_results = write_results(groups, failures, folder)
    results = [json.loads(path.read_text("utf-8")) for path in paths_of_results]
    text = "\n".join(results_markdown(one) for one in results)
    (folder / "table.md").write_text(text, encoding="utf-8")
    for table in (table for one in results for table in results_tables(one, narrow=True)):
        console.print(table.rich())
    files = ", ".join(map(str, paths_of_results))
    print(f"tables in {folder / 'table.md'}, numbers in {files}")
    # At the end, with a status of its own: whatever could be answered is in the table.
    if failures:
        listed = "\n".join(f"  {cell}: {reason}" for cell, reason in failures.items())
        raise ValueError(
            f"got {len(failures)} cells that failed, expected none; the same command tries them "
            f"again:\n{listed}"
        )


def _render() -> None:
    """Render tables and figures, and say where."""
    from prag_core.evaluation.rendering import render_documents  # matplotlib takes a second

    changed = render_documents(Path())
    print("rendered", ", ".join(map(str, changed)) or "nothing: all is as the results have it")
