"""Demo: invented documents become adapters, and questions on them are asked in every mode."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prag_core.build import Setup, build_pipeline
from prag_core.commands import evaluate_pipeline
from prag_core.datasets import QuestionSet, load_question_set
from prag_core.evaluate import EvaluationOptions
from prag_core.results import Report, answers_path, format_table, read_answers, write_json

MODES = ("closed_book", "in_context", "da_rag", "parametric", "combine", "shuffled", "sft")
SHOWN = 3  # questions printed with every mode's answer


def demo(setup: Setup, output: str = "runs/demo", k: int = 1) -> None:
    """Turn 12 invented documents into adapters and answer questions from them in every mode.

    Args:
        setup: shared settings.
        output: folder for adapters, answers and results.json.
        k: documents a question, found by the retriever.
    """
    console = Console()
    question_set = demo_question_set()
    console.print(
        f"{len(question_set.documents)} documents on invented people and places, "
        f"{len(question_set.questions)} questions; path: {setup.path}"
    )
    folder = Path(output) / setup.path
    began = time.perf_counter()
    options = EvaluationOptions(modes=MODES, k=k)
    with build_pipeline(setup, folder / "store", question_set.documents) as rag:
        report = evaluate_pipeline(rag, question_set, options, folder, setup)
    examples = _examples(question_set, folder)
    console.print(format_table(report))
    for example in examples:
        console.print(_example_table(example))
    seconds = time.perf_counter() - began
    console.print(f"{seconds:.0f} s; results in {Path(output) / 'results.json'}")
    _write_results(Path(output) / "results.json", setup.path, report, examples, seconds)


def demo_question_set() -> QuestionSet:
    """Load the invented corpus and its questions from the package."""
    with as_file(files("prag_core") / "resources" / "demo") as folder:
        return load_question_set(folder)


def _examples(question_set: QuestionSet, folder: Path) -> list[dict]:
    answers = {mode: read_answers(answers_path(folder, mode)) for mode in MODES}
    step = max(len(question_set.questions) // SHOWN, 1)
    return [
        {
            "question": question.question,
            "golden_answers": list(question.golden_answers),
            "answers": {mode: answers[mode][question.id]["prediction"] for mode in MODES},
        }
        for question in question_set.questions[::step][:SHOWN]
    ]


def _example_table(example: dict) -> Table:
    table = Table(
        title=f"{example['question']} ({example['golden_answers'][0]})", title_justify="left"
    )
    table.add_column("mode")
    table.add_column("answer")
    for mode, text in example["answers"].items():
        table.add_row(mode, text)
    return table


def _write_results(
    path: Path, path_name: str, report: Report, examples: list[dict], seconds: float
) -> None:
    """Write this path's results beside those of the other path, if there are any."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[path_name] = {"report": asdict(report), "examples": examples, "seconds": seconds}
    write_json(path, results)
