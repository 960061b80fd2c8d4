"""Demo: invented documents become adapters, and questions on them are asked in every mode."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, demo_question_set
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.files import write_json
from prag_core.pipeline.setup import AdapterPath, Setup
from prag_core.terminal import progress_bar

ADAPTER_MODES = ("parametric", "combine", "shuffled")  # a row a path
NEED_TRAINING = ("da_rag", "sft")
MODES = ("closed_book", "in_context", "da_rag", *ADAPTER_MODES, "sft")  # rows of the table
METRICS = ("containment", "f1")
SHOWN = 3  # questions printed with every mode's answer


def demo(
    setup: Setup,
    output: str = "runs/demo",
    paths: tuple[AdapterPath, ...] = ("generated", "trained"),
    k: int = 1,
) -> None:
    """Turn 12 invented documents into adapters and ask about them in every mode.

    Args:
        setup: shared settings; `paths` stands in for its `path`.
        output: folder for adapters, answers and results.json.
        paths: who makes the adapters, one after the other.
        k: documents a question, found by the retriever.
    """
    from prag_core.evaluation.evaluate import evaluate
    from prag_core.evaluation.results import RESULTS_NAME, answers_path, read_answers
    from prag_core.evaluation.tables import EXPLAINED, Table, metric_rows
    from prag_core.pipeline.rag import build_pipeline

    console, folder, question_set = Console(highlight=False), Path(output), demo_question_set()
    questions = question_set.questions
    shown = questions[:: max(len(questions) // SHOWN, 1)][:SHOWN]  # spread over the documents
    results, cells, answers = {}, {}, {}
    console.print(f"{len(question_set.documents)} invented documents, {len(questions)} questions")
    for path in paths:
        began = time.perf_counter()
        modes = _modes(path, path == paths[0])
        # Each path in a folder of its own, as the same conditions are asked on both.
        path_setup = replace(setup, path=path)
        with build_pipeline(path_setup, folder / path / "store", question_set.documents) as rag:
            _first_answers(console, rag, question_set.documents, [q.question for q in shown], k)
            options = EvaluationOptions(modes, k, chunk=16)  # small chunks: the progress moves
            config = path_setup.answer_config() | rag.identity
            report = evaluate(rag, question_set, options, folder / path, config)
        seconds = round(time.perf_counter() - began)
        results[path] = {"report": asdict(report), "seconds": seconds}
        for mode in modes:
            name = f"{mode} ({path})" if mode in ADAPTER_MODES else mode
            cells[name] = report.conditions[mode].metrics
            answers[name] = read_answers(answers_path(folder / path, mode))
    # Stable: within a mode the paths stay in their order.
    order = sorted(cells, key=lambda name: MODES.index(name.split(" ")[0]))
    rows = metric_rows({name: cells[name] for name in order}, METRICS)
    title = f"{len(questions)} questions about {len(question_set.documents)} invented documents"
    console.print(Table(title, ("mode", "containment", "F1"), (rows,), EXPLAINED).rich())
    examples = _examples(shown, {name: answers[name] for name in order})
    _print_examples(console, examples)
    write_json(folder / RESULTS_NAME, {"paths": results, "examples": examples})
    print(f"all else in {folder / RESULTS_NAME}")


def _first_answers(
    console: Console, rag: Any, documents: Sequence[Document], texts: list[str], k: int
) -> None:
    """Make a path's adapters, and print what they answer before all modes are asked."""
    # Not typed as the ParametricRAG that it is: the parser of the options would import it.
    with progress_bar("adapters", len(documents)) as advance:
        rag.add_documents(documents, advance)
    answers = rag.answer(texts, "parametric", k=k)
    lines = [f"\nfrom {answers[0].path} adapters, with no document in the prompt:"]
    lines += [f"  {answer.question} {answer.text}" for answer in answers]
    console.print("\n".join([*lines, ""]), markup=False, soft_wrap=True)


def _modes(path: str, first: bool) -> tuple[str, ...]:
    """Return what a path is asked: what no adapter changes only once, with the first path."""
    # Only a trained path has augmented passages and an adapter of the whole corpus.
    shared = MODES if first else (*ADAPTER_MODES, *NEED_TRAINING)
    return tuple(m for m in shared if path == "trained" or m not in NEED_TRAINING)


def _examples(questions: Sequence[Question], answers: Mapping[str, Mapping]) -> list[dict]:
    """Return the questions with the answer of every mode and path."""
    return [
        {
            "question": question.question,
            "golden_answers": list(question.golden_answers),
            "answers": {name: rows[question.id]["prediction"] for name, rows in answers.items()},
        }
        for question in questions
    ]


def _print_examples(console: Console, examples: Sequence[Mapping]) -> None:
    for example in examples:
        # Not as markup: rich would read square brackets of an answer as a style.
        lines = [f"\n{example['question']} ({example['golden_answers'][0]})"]
        lines += [f"  {name:<24}{text}" for name, text in example["answers"].items()]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
