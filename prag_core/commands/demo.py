"""Demo: invented documents become adapters, and questions on them are asked in every mode."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from prag_core.corpus.question_sets import QuestionSet, demo_question_set
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.options import EvaluationOptions
from prag_core.evaluation.results import RESULTS_NAME, read_answers
from prag_core.evaluation.tables import report_table
from prag_core.files import write_json
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import build_pipeline

ADAPTER_MODES = ("parametric", "combine", "shuffled")
NEED_TRAINING = ("da_rag", "sft")
MODES = ("closed_book", "in_context", "da_rag", "parametric", "combine", "shuffled", "sft")
SHOWN = 3  # questions printed with every mode's answer


def demo(
    setup: Setup,
    output: str = "runs/demo",
    paths: tuple[Literal["trained", "generated"], ...] = ("trained", "generated"),
    k: int = 1,
) -> None:
    """Turn 12 invented documents into adapters and ask about them in every mode.

    Args:
        setup: shared settings; `paths` stands in for its `path`.
        output: folder for adapters, answers and results.json.
        paths: who makes the adapters, one table each.
        k: documents a question, found by the retriever.
    """
    console = Console()
    question_set = demo_question_set()  # invented: no model knows the answers from elsewhere
    results = {}
    for path in paths:
        began = time.perf_counter()
        console.print(
            f"\n{path}: {len(question_set.documents)} documents on invented people and places, "
            f"{len(question_set.questions)} questions"
        )
        # What does not depend on the path is asked once, with the first.
        modes = MODES if path == paths[0] else ADAPTER_MODES
        modes = modes if path == "trained" else tuple(m for m in modes if m not in NEED_TRAINING)
        folder, chosen = Path(output) / path, replace(setup, path=path)
        with build_pipeline(chosen, folder / "store", question_set.documents) as rag:
            options = EvaluationOptions(modes, k=k)
            config = chosen.answer_config() | rag.identity
            report = evaluate(rag, question_set, options, folder, config)
        console.print(report_table(report).rich())
        # Loading the models included: a new user waits for that too.
        seconds = round(time.perf_counter() - began)
        console.print(f"{seconds} s")
        results[path] = {"report": asdict(report), "seconds": seconds}
    examples = _examples(question_set, Path(output))
    for example in examples:
        console.print(_example_table(example))
    write_json(Path(output) / RESULTS_NAME, {"paths": results, "examples": examples})
    console.print(f"results in {Path(output) / RESULTS_NAME}")


def _examples(question_set: QuestionSet, output: Path) -> list[dict]:
    """Pick questions spread over the set, with the answer of every mode and path."""
    answers = {}
    for mode in MODES:
        for file in sorted(output.glob(f"*/{mode}.jsonl"), reverse=True):
            name = f"{mode} ({file.parent.name})" if mode in ADAPTER_MODES else mode
            answers[name] = read_answers(file)
    # Evenly spread, as neighbouring questions are about one document.
    step = max(len(question_set.questions) // SHOWN, 1)
    return [
        {
            "question": question.question,
            "golden_answers": list(question.golden_answers),
            "answers": {
                mode: found[question.id]["prediction"]
                for mode, found in answers.items()
                if question.id in found
            },
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
