"""Evaluate: a pipeline and a question set go in, scored answers and a report come out.

    question set -> documents by condition -> adapters -> answers (CONDITION.jsonl, resumable)
                 -> results.json

A condition asked of a question set is a cell; benchmarks and comparisons are made of such cells.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from prag_core.adapters.adapter import Adapter, fingerprint
from prag_core.adapters.merge import mean_adapter
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.assignment import Assignment, Rows, name_some
from prag_core.evaluation.conditions import Condition, parse_condition
from prag_core.evaluation.options import AnsweringPipeline, EvaluationOptions
from prag_core.evaluation.results import (
    RESULTS_NAME,
    Answers,
    Report,
    answers_path,
    append_answers,
    claim_folder,
    conditions_in,
    read_answers,
    summarise,
)
from prag_core.evaluation.unrelated import UnrelatedTexts
from prag_core.files import write_json
from prag_core.pipeline.answers import Answer
from prag_core.terminal import progress_bar


def evaluate(
    rag: AnsweringPipeline,
    question_set: QuestionSet,
    options: EvaluationOptions,
    folder: Path | str,
    config: Mapping[str, object] | None = None,
    hits: Rows | None = None,
    predictions: Mapping[str, Answers] | None = None,
    unrelated: UnrelatedTexts | None = None,
) -> Report:
    """Answer the questions in every condition, score the answers and write the results.

    The adapters that the conditions need are made first. A second run over the same folder answers
    only what is missing; conditions can be added to it.

    Args:
        rag: answers questions.
        question_set: questions, and the documents that their gold ids name.
        options: conditions, documents a question.
        folder: gets CONDITION.jsonl (one line an answer), config.json and results.json.
        config: what else the answers depend on (base model, parametrizer, prompts, ...); kept in
            config.json, and a second run must bring the same.
        hits: every question's documents, found by somebody else's retriever.
        predictions: name -> answers of somebody else's system, reported beside the conditions.
        unrelated: texts that adapters should not change.

    Raises:
        ValueError: no questions, questions without golden answers, gold documents that are
            missing, no other document for `shuffled`, or a folder made with another config.
    """
    # Everything that can be refused is refused before the folder is touched.
    check_questions(question_set.questions)
    # closed_book can be asked of questions without a corpus.
    if question_set.documents:
        rag.add_documents(question_set.documents, parametrize=False)
    # Somebody else's hits are what is to be measured, whatever `retrieval` says.
    gold, seed = options.retrieval == "gold" and hits is None, options.seed
    assignment = Assignment(question_set, rag.retrieve, options.k, gold, seed, hits)
    conditions = [parse_condition(name) for name in options.conditions]
    cells = _Cells(rag, assignment, {c.name: assignment.rows(c) for c in conditions})
    folder = Path(folder)
    claim_folder(folder, _resolved(question_set, options, config, hits))
    cells.make_adapters(conditions, unrelated)
    for condition in conditions:
        cells.answer(condition, folder, options.chunk)
    # Conditions of earlier runs over the folder stand in the report, too.
    answers = {name: read_answers(answers_path(folder, name)) for name in conditions_in(folder)}
    answers |= predictions or {}
    changed = unrelated.measure(rag, question_set.documents, seed) if unrelated else None
    report = summarise(question_set.name, question_set.questions, answers, seed, changed)
    write_json(folder / RESULTS_NAME, asdict(report))
    return report


def check_questions(questions: Sequence[Question]) -> None:
    """Raise ValueError for no questions, ids that occur twice, or no golden answers."""
    if not questions:
        raise ValueError("got no questions, expected at least one: check the question set")
    identifiers = {question.id for question in questions}
    if len(identifiers) != len(questions):
        raise ValueError(
            f"got {len(questions)} questions with {len(identifiers)} different ids, expected one "
            "id each: results resume by id, so make them unique"
        )
    unanswered = [question.id for question in questions if not question.golden_answers]
    if unanswered:
        raise ValueError(
            f"got {len(unanswered)} questions without golden answers ({name_some(unanswered)}), "
            "expected at least one answer each: add answers, or leave these questions out"
        )


def _resolved(
    question_set: QuestionSet,
    options: EvaluationOptions,
    config: Mapping[str, object] | None,
    hits: Rows | None,
) -> dict[str, object]:
    """Return all that the answers depend on: conditions can be added, and chunks do not matter."""
    left_out = ("conditions", "chunk")
    kept = {name: value for name, value in asdict(options).items() if name not in left_out}
    if hits is not None:
        kept["hits"] = fingerprint([[(hit.document_id, hit.score) for hit in row] for row in hits])
    # Contents, not paths: a set that moved is the same, one that was edited is not.
    contents = [
        (q.id, q.question, list(q.golden_answers), list(q.gold_ids)) for q in question_set.questions
    ]
    identity = {
        "name": question_set.name,
        "questions": fingerprint(contents),
        "documents": fingerprint(sorted(document.id for document in question_set.documents)),
    }
    return {"evaluation": kept, "question_set": identity, "run": dict(config or {})}


@dataclass(frozen=True)
class _Cells:
    """The conditions of one question set: the pipeline, and the documents of each."""

    rag: AnsweringPipeline
    assignment: Assignment
    rows: Mapping[str, Rows]

    def make_adapters(
        self, conditions: Iterable[Condition], unrelated: UnrelatedTexts | None
    ) -> None:
        """Make the adapters that the conditions and the unrelated texts need."""
        needed: dict[str, None] = {}
        for condition in conditions:
            if condition.needs_adapters:
                of_all = condition.documents == "all"  # its rows are empty: no question's own
                rows = self.assignment.own if of_all else self.rows[condition.name]
                needed |= dict.fromkeys(hit.document_id for row in rows for hit in row)
        if unrelated:
            owners = unrelated.owners(self.assignment.question_set.documents)
            needed |= dict.fromkeys(document.id for document in owners)
        if needed:
            with progress_bar("adapters", len(needed)) as advance:
                self.rag.ensure_adapters(needed, advance)

    def answer(self, condition: Condition, folder: Path, chunk: int) -> None:
        """Answer what the condition's file does not have yet."""
        questions = self.assignment.questions
        with progress_bar(condition.name, len(questions)) as advance:
            for done in self._chunks(condition, answers_path(folder, condition.name), chunk):
                advance(done)

    def _chunks(self, condition: Condition, path: Path, chunk: int) -> Iterator[int]:
        """Answer and write chunk by chunk; yield the number of questions done."""
        answerer, questions = self.rag.answerer, self.assignment.questions
        if condition.documents == "all":
            # Computed when the first question is asked: a finished condition needs none.
            answerer = replace(answerer, corpus_adapter=lambda: self._mean)
        options = condition.options(answerer.options)
        answered = read_answers(path)
        # By id, not by number, so that a file with a gap is filled.
        missing = [n for n, question in enumerate(questions) if question.id not in answered]
        done = len(questions) - len(missing)
        yield done
        for start in range(0, len(missing), chunk):
            places = missing[start : start + chunk]
            texts = [questions[n].question for n in places]
            hits = [self.rows[condition.name][n] for n in places]
            began = time.perf_counter()
            answers = answerer.answer(texts, hits, condition.mode, options)
            seconds = (time.perf_counter() - began) / len(places)
            pairs = [(questions[n], answer) for n, answer in zip(places, answers, strict=True)]
            append_answers(path, [_record(*pair, seconds) for pair in pairs])
            done += len(places)
            yield done

    @cached_property
    def _mean(self) -> Adapter:
        """The mean of the adapters of all questions' own documents."""
        ids = dict.fromkeys(hit.document_id for row in self.assignment.own for hit in row)
        return mean_adapter(self.rag.adapter(i) for i in ids)


def _record(question: Question, answer: Answer, seconds: float) -> dict[str, object]:
    """Return one line of CONDITION.jsonl; seconds is the chunk's mean."""
    return scored(question, answer.text, seconds) | {
        "documents": [
            {"id": source.document_id, "score": float(source.score), "weight": source.weight}
            for source in answer.documents
        ],
        "path": answer.path,
        "prompt": answer.prompt,
    }


def scored(question: Question, text: str, seconds: float = 0.0) -> dict[str, object]:
    """Return the record of an answer with its scores."""
    return {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "prediction": text,
        "scores": asdict(score_answer(text, question.golden_answers)),
        "seconds": round(seconds, 6),
    }
