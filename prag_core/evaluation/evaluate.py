"""Evaluate: a pipeline and a question set go in, scored answers and a report come out.

    question set -> answers in every mode (MODE.jsonl, resumable) -> results.json -> table

The control `shuffled` answers from another document's adapter: what it scores is answer format
and general tuning, not knowledge of the document.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.answer_scores import score_answer
from prag_core.evaluation.assignment import assign_documents, name_some, replaced_scores
from prag_core.evaluation.results import (
    RESULTS_NAME,
    SHUFFLED,
    Report,
    answers_path,
    append_answers,
    claim_folder,
    read_answers,
    summarise,
)
from prag_core.files import write_json

if TYPE_CHECKING:
    from prag_core.corpus.question_sets import Question, QuestionSet
    from prag_core.pipeline.rag import Answer


from prag_core.evaluation.options import AnsweringPipeline, EvaluationOptions


def evaluate(
    rag: AnsweringPipeline,
    question_set: QuestionSet,
    options: EvaluationOptions,
    folder: Path | str,
    config: Mapping[str, object] | None = None,
) -> Report:
    """Answer the questions in every mode, score the answers and write the results.

    A second run over the same folder answers only what is missing; modes can be added to it.

    Args:
        rag: answers questions.
        question_set: questions, and the documents that their gold ids name.
        options: modes, documents, sample.
        folder: gets MODE.jsonl (one line an answer), config.json and results.json.
        config: what else the answers depend on (base model, parametrizer, prompts, ...); kept in
            config.json, and a second run must bring the same.

    Raises:
        ValueError: no questions, questions without golden answers, gold documents that are
            missing, no other document for `shuffled`, or a folder made with another config.
    """
    # Everything that can be refused is refused before the folder is touched.
    questions = chosen_questions(question_set.questions, options)
    assignments = {
        mode: assign_documents(rag, question_set, questions, mode, options)
        for mode in options.modes
    }
    folder = Path(folder)
    claim_folder(folder, _resolved(question_set, options, config))
    console = Console(stderr=True)  # standard output stays free for the table
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for mode, document_ids in assignments.items():
            task = progress.add_task(mode, total=len(questions))
            path = answers_path(folder, mode)
            scores = replaced_scores(rag, questions, mode, options)
            documents = (document_ids, scores)
            for done in _answer_missing(rag, questions, mode, documents, path, options):
                progress.update(task, completed=done)
    report = summarise(question_set.name, [q.id for q in questions], folder, options.seed)
    write_json(folder / RESULTS_NAME, asdict(report))
    return report


def chosen_questions(questions: Sequence[Question], options: EvaluationOptions) -> list[Question]:
    """Check the questions and draw the sample that `evaluate` asks.

    Raises:
        ValueError: no questions, ids that occur twice, or questions without golden answers.
    """
    if not questions:
        raise ValueError("got no questions, expected at least one: check the question set")
    identifiers = {question.id for question in questions}
    if len(identifiers) != len(questions):
        raise ValueError(
            f"got {len(questions)} questions with {len(identifiers)} different ids, expected one "
            "id each: results resume by id, so make them unique"
        )
    chosen = list(questions)
    if options.limit is not None and options.limit < len(chosen):
        sample = random.Random(options.seed).sample(range(len(chosen)), options.limit)
        chosen = [chosen[index] for index in sorted(sample)]
    unanswered = [question.id for question in chosen if not question.golden_answers]
    if unanswered:
        raise ValueError(
            f"got {len(unanswered)} questions without golden answers ({name_some(unanswered)}), "
            "expected at least one answer each: add answers, or leave these questions out"
        )
    return chosen


def _resolved(
    question_set: QuestionSet, options: EvaluationOptions, config: Mapping[str, object] | None
) -> dict[str, object]:
    """Return all that the answers depend on: modes can be added, and chunks do not matter."""
    kept = {
        name: value for name, value in asdict(options).items() if name not in ("modes", "chunk")
    }
    contents = [
        (q.id, q.question, list(q.golden_answers), list(q.gold_ids)) for q in question_set.questions
    ]
    identity = {
        "name": question_set.name,
        "questions": fingerprint(contents),
        "documents": fingerprint(sorted(document.id for document in question_set.documents)),
    }
    return {"evaluation": kept, "question_set": identity, "run": dict(config or {})}


def _answer_missing(
    rag: AnsweringPipeline,
    questions: Sequence[Question],
    mode: str,
    documents: tuple[Sequence[Sequence[str]] | None, Sequence[Sequence[float]] | None],
    path: Path,
    options: EvaluationOptions,
) -> Iterator[int]:
    """Answer what the file does not have yet; yield the number done after each chunk.

    `documents` are the ids and scores of every question's documents; None leaves them open.
    """
    document_ids, scores = documents
    answered = read_answers(path)
    missing = [i for i, question in enumerate(questions) if question.id not in answered]
    done = len(questions) - len(missing)
    yield done
    for start in range(0, len(missing), options.chunk):
        rows = missing[start : start + options.chunk]
        asked = [questions[i] for i in rows]
        began = time.perf_counter()
        answers = rag.answer(
            [question.question for question in asked],
            mode="parametric" if mode == SHUFFLED else mode,
            k=options.k,
            document_ids=None if document_ids is None else [document_ids[i] for i in rows],
            scores=None if scores is None else [scores[i] for i in rows],
        )
        seconds = (time.perf_counter() - began) / len(asked)
        pairs = zip(asked, answers, strict=True)
        append_answers(path, [_record(question, answer, seconds) for question, answer in pairs])
        done += len(asked)
        yield done


def _record(question: Question, answer: Answer, seconds: float) -> dict[str, object]:
    """Return one line of MODE.jsonl; seconds is the chunk's mean."""
    return {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "prediction": answer.text,
        "documents": [
            {"id": hit.document_id, "score": float(hit.score)} for hit in answer.documents
        ],
        "scores": asdict(score_answer(answer.text, question.golden_answers)),
        "seconds": round(seconds, 6),
    }
