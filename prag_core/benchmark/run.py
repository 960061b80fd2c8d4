"""Benchmark: (base model x question set x seed x path x mode) cells go in, one table comes out.

    YAML -> groups of cells -> answers (MODE.jsonl, resumable) -> table.json, table.md, figure.svg

A finished cell is not run again: a second run of a finished benchmark loads no model and no data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console

from prag_core.adapters.store import AdapterStore
from prag_core.benchmark.formats import format_markdown, format_tables
from prag_core.benchmark.options import SHARED, BenchmarkModel, BenchmarkSet, Group, expand
from prag_core.benchmark.sets import Asked, Sets
from prag_core.benchmark.table import build_table
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.pipeline_run import evaluate_pipeline
from prag_core.evaluation.results import EVALUATED_MODES, answers_path, claim_folder, read_answers
from prag_core.files import write_json
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.pipeline.parts import Setup, build_parametrizer
from prag_core.pipeline.rag import ParametricRAG

ASKED, QUESTIONS = "asked", "questions.json"  # a group's config and questions, in its folder


def benchmark(
    setup: Setup,
    output: str = "runs/benchmark",
    question_sets: tuple[BenchmarkSet, ...] = (),
    base_models: tuple[BenchmarkModel, ...] = (BenchmarkModel(hypernet=Setup.hypernet),),
    paths: tuple[Literal["trained", "generated"], ...] = ("trained", "generated"),
    modes: tuple[str, ...] = EVALUATED_MODES,
    seeds: tuple[int, ...] = (0,),
    skip_bad: bool = False,
) -> None:
    """Run a grid of question sets, base models, paths and modes into one table.

    May be stopped at any time: the same command goes on where it was. A cell that fails is named
    at the end and does not stop the others.

    Args:
        setup: shared settings; base_models and paths stand in for its own.
        output: folder for answers, adapters, table.json, table.md and figure.svg.
        question_sets: what is asked, and how.
        base_models: who is asked; one is in memory at a time.
        paths: who makes the adapters.
        modes: ways to answer, as in `prag evaluate`.
        seeds: of samples and of the control `shuffled`; the table shows the mean over seeds.
        skip_bad: leave out bad records and questions whose gold documents are missing.
    """
    folder = Path(output)
    groups = expand(setup, folder, question_sets, base_models, paths, modes, seeds)
    for group in groups:  # another config is refused before anything is loaded
        begun = [mode for mode in EVALUATED_MODES if answers_path(group.folder, mode).exists()]
        claim_folder(group.folder / ASKED, group.config(), begun)
    failures = run_groups(groups, Sets(skip_bad), folder)
    _write_table(build_table([(g, _kept_questions(g)) for g in groups], failures), folder)
    if failures:
        listed = "\n".join(f"  {cell}: {reason}" for cell, reason in failures.items())
        raise ValueError(
            f"got {len(failures)} cells that failed, expected none; the same command tries them "
            f"again:\n{listed}"
        )


def _write_table(table: dict, folder: Path) -> None:
    """Write the table as JSON, Markdown and picture, and print it."""
    from prag_core.benchmark.figure import write_figure  # matplotlib takes a second to import

    write_json(folder / "table.json", table)
    (folder / "table.md").write_text(format_markdown(table), encoding="utf-8")
    write_figure(table, folder / "figure.svg")
    console = Console()
    for part in format_tables(table):
        console.print(part)
    console.print(f"table in {folder / 'table.md'}, numbers in {folder / 'table.json'}")


def run_groups(groups: Sequence[Group], sets: Sets, folder: Path) -> dict[str, str]:
    """Run what is not finished, base model by base model; return {cell: what went wrong}."""
    failures: dict[str, str] = {}
    for label, members in groupby(groups, key=lambda group: group.model.label):
        unfinished = [group for group in members if missing_modes(group)]
        if unfinished:
            failures |= _run_model(unfinished, sets, folder / label / "store")
    return failures


def missing_modes(group: Group) -> list[str]:
    """Return the modes that the folder does not hold in full."""
    identifiers = [question["id"] for question in _kept_questions(group)]
    return [
        mode
        for mode in group.modes
        if not identifiers
        or not read_answers(answers_path(group.folder, mode)).keys() >= {*identifiers}
    ]


def _run_model(groups: Sequence[Group], sets: Sets, store: Path) -> dict[str, str]:
    setup = groups[0].setup
    failures: dict[str, str] = {}
    try:
        base = load_base_model(setup.base_model, setup.dtype, setup.device)
    except Exception as error:  # whatever it is, other base models are run
        return _failed(groups, error)
    with AdapterStore(store) as opened:
        for group in groups:
            began = time.perf_counter()
            try:
                asked = sets.ask(group)
                _keep_questions(group, asked)
                rag = _pipeline(group, base, opened, asked, sets)
            except Exception as error:  # whatever it is, other groups are run
                failures |= _failed([group], error)
                continue
            count = len(asked.question_set.questions)
            _say(f"{group.cell(', '.join(group.modes))}: {count} questions")
            failures |= _answer(group, rag, asked)
            _say(f"  {time.perf_counter() - began:.0f} s")
    return failures


def _pipeline(
    group: Group, base: BaseModel, store: AdapterStore, asked: Asked, sets: Sets
) -> ParametricRAG:
    documents, setup = asked.question_set.documents, group.setup
    parametrizer = None
    if group.path != SHARED:
        parametrizer = build_parametrizer(base, setup, store, asked.source)
    searched = documents if group.spec.retrieval == "retriever" else ()
    retriever = sets.retriever(searched, setup.retriever)
    rag = ParametricRAG(
        base, retriever, parametrizer, generation=setup.generation, options=setup.answering
    )
    # The store serves all question sets: only adapters come from it, the corpus is this one's.
    rag.documents = {document.id: document for document in documents}
    rag.store = store
    return rag


def _answer(group: Group, rag: ParametricRAG, asked: Asked) -> dict[str, str]:
    """Answer in all modes at once; where that fails, mode by mode."""
    try:
        _evaluate(group, rag, asked, group.modes)
        return {}
    except Exception as error:  # whatever it is, other cells are run
        if len(group.modes) == 1:
            return _failed([group], error)
    failures = {}
    for mode in missing_modes(group):
        try:
            _evaluate(group, rag, asked, (mode,))
        except Exception as error:  # as above
            failures[group.cell(mode)] = _reason(error)
    return failures


def _evaluate(group: Group, rag: ParametricRAG, asked: Asked, modes: Sequence[str]) -> None:
    options, question_set = group.evaluation(modes), asked.question_set
    if group.path != SHARED:
        evaluate_pipeline(rag, question_set, options, group.folder, group.setup)
        return
    config = group.run_config() | {"base_fingerprint": rag.base.fingerprint}
    evaluate(rag, question_set, options, group.folder, config)


def _keep_questions(group: Group, asked: Asked) -> None:
    """Write the questions beside the answers; those of other answers are not overwritten."""
    kept, rows = _kept_questions(group), asked.rows()
    begun = any(answers_path(group.folder, mode).exists() for mode in EVALUATED_MODES)
    if begun and kept and kept != rows:
        raise ValueError(
            f"got other questions from {group.spec.source} than the answers in {group.folder} are "
            "to, expected the same: bring the source back, or choose another output"
        )
    write_json(group.folder / ASKED / QUESTIONS, rows)


def _kept_questions(group: Group) -> list[dict]:
    path = group.folder / ASKED / QUESTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _failed(groups: Sequence[Group], error: Exception) -> dict[str, str]:
    return {group.cell(mode): _reason(error) for group in groups for mode in missing_modes(group)}


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, (ValueError, OSError)) else repr(error)


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
