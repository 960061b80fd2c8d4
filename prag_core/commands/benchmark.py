"""Benchmark: a YAML's lists of models, question sets and conditions go in, one table comes out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from prag_core.evaluation.benchmark import run_benchmark
from prag_core.evaluation.benchmark_options import BenchmarkModel, BenchmarkSet, expand
from prag_core.files import write_json
from prag_core.pipeline.parts import AdapterPath, Setup

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
) -> None:
    """Run a grid of question sets, base models, paths and conditions into one table.

    May be stopped at any time: the same command goes on where it was. A cell that fails is named
    at the end and does not stop the others.

    Args:
        setup: shared settings; base_models and paths stand in for its own.
        output: folder for answers, adapters, table.json and table.md.
        question_sets: what is asked, and how.
        base_models: who is asked; one is in memory at a time.
        paths: who makes the adapters.
        conditions: ways to answer, as in `prag evaluate`.
        seeds: of samples and controls; the table shows the mean over seeds.
        skip_bad: leave out bad records and questions whose gold documents are missing.
    """
    from prag_core.evaluation.benchmark_table import (  # pandas takes half a second to import
        EXPLAINED,
        build_table,
        format_markdown,
        format_tables,
    )

    folder, console = Path(output), Console()
    # Refused here, before anything is loaded or written.
    groups = expand(setup, folder, question_sets, base_models, paths, conditions, seeds)
    failures = run_benchmark(groups, folder, skip_bad)
    # From the files of all cells, those of earlier runs included.
    table = build_table(groups, failures)
    write_json(folder / "table.json", table)
    (folder / "table.md").write_text(format_markdown(table), encoding="utf-8")
    for part in format_tables(table):
        console.print(part.rich())
    console.print(EXPLAINED)
    console.print(f"table in {folder / 'table.md'}, numbers in {folder / 'table.json'}")
    # At the end, with a status of its own: whatever could be answered is in the table.
    if failures:
        listed = "\n".join(f"  {cell}: {reason}" for cell, reason in failures.items())
        raise ValueError(
            f"got {len(failures)} cells that failed, expected none; the same command tries them "
            f"again:\n{listed}"
        )
