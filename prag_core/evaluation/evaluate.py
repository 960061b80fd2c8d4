"""Evaluate: a pipeline and a question set go in, scored answers and a report come out.

    question set -> documents by condition -> adapters -> answers (CONDITION.jsonl, resumable)
                 -> results.json

A condition asked of a question set is a cell; benchmarks and comparisons are made of such cells.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from prag_core.adapters.adapter import Adapter, fingerprint
from prag_core.adapters.merge import mean_adapter
from prag_core.augmentation.augmented import AugmentedDocument
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.assignment import Assignment, Rows, name_some
from prag_core.evaluation.conditions import Condition, EvaluationOptions, parse_condition
from prag_core.evaluation.results import (
    MAKING,
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
from prag_core.evaluation.unrelated import Choices, UnrelatedTexts
from prag_core.files import locked, whole_lines, write_json
from prag_core.model import prompts
from prag_core.pipeline.answers import Answer
from prag_core.pipeline.modes import require_one_passage
from prag_core.pipeline.rag import ParametricRAG
from prag_core.terminal import progress_bar

Ask = Callable[[Question], prompts.Question]


def evaluate(
    rag: ParametricRAG,
    question_set: QuestionSet,
    options: EvaluationOptions,
    folder: Path | str,
    config: Mapping[str, object] | None = None,
    hits: Rows | None = None,
    predictions: Mapping[str, Answers] | None = None,
    unrelated: Mapping[str, UnrelatedTexts | Choices] | None = None,
    ask: Ask = attrgetter("question"),
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
        unrelated: by source, texts and choices of answers that adapters should not change.
        ask: returns what is asked of a question: its text, or another prompt.

    Raises:
        ValueError: no questions, questions without golden answers, gold documents that are
            missing, no other document for `shuffled`, no document to read what is unrelated with,
            or a folder made with another config.
        TimeoutError: another process writes to the folder.
    """
    # Everything that can be refused is refused before the folder is touched.
    check_questions(question_set.questions)
    if question_set.documents:
        rag.add_documents(question_set.documents, parametrize=False)
    gold, seed = options.retrieval == "gold" and hits is None, options.seed
    assignment = Assignment(question_set, rag.retrieve, options.k, gold, seed, hits)
    conditions = [parse_condition(name) for name in options.conditions]
    cells = _Cells(rag, assignment, {c.name: assignment.rows(c) for c in conditions}, ask)
    _require_parts(rag, conditions, cells.rows)
    strangers, documents = dict(unrelated or {}), question_set.documents
    # They are read with adapters of the set's documents, asked or not.
    owners = [owner.id for part in strangers.values() for owner in part.owners(documents)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Conditions can be added to a folder, and where a chunk ends changes no answer.
    settings = {n: v for n, v in asdict(options).items() if n not in ("conditions", "chunk")}
    if hits is not None:
        settings["hits"] = fingerprint([[(hit.document_id, hit.score) for hit in r] for r in hits])
    resolved = {"evaluation": settings, "question_set": set_identity(question_set)}
    with locked(folder):
        claim_folder(folder, resolved | {"run": dict(config or {})})
        cells.make_adapters(conditions, owners, folder)
        for condition in conditions:
            cells.answer(condition, folder, options.chunk)
        answers = {name: read_answers(answers_path(folder, name)) for name in conditions_in(folder)}
        # Somebody else's answers stand in the report, not in the folder.
        answers |= predictions or {}
        changed = _measured_before(folder) | {
            name: part.measure(rag, documents, seed) for name, part in strangers.items()
        }
        report = summarise(
            question_set.name, question_set.questions, answers, seed, changed or None
        )
        write_json(folder / RESULTS_NAME, asdict(report))
    return report


def _measured_before(folder: Path) -> dict:
    """Return what is unrelated, by source, as the folder's report has it."""
    path = folder / RESULTS_NAME
    return (json.loads(path.read_text("utf-8")).get("unrelated") or {}) if path.exists() else {}


def trains(rag: ParametricRAG) -> bool:
    """Return whether a pipeline can train one adapter over the whole corpus."""
    return hasattr(rag.parametrizer, "train_global")


def _require_parts(
    rag: ParametricRAG, conditions: Sequence[Condition], rows: Mapping[str, Rows]
) -> None:
    """Raise ValueError for a condition whose parts are missing, or of too many documents."""
    for condition in conditions:
        require_one_passage(condition.how, map(len, rows[condition.name]))
        if condition.how.adapters == "reader":
            rag.require_reader()
        augmented = condition.how.passages == "augmented"
        able = rag.augmenter is not None if augmented else trains(rag)
        if condition.needs_training and not able:
            raise ValueError(
                f"got condition {condition.name}, expected others: the trained path alone augments "
                "and trains on a whole corpus (--path trained); or leave the condition out"
            )
        if condition.gated and rag.options.least_relevance <= 0:
            raise ValueError(
                f"got condition {condition.name} with least_relevance 0, which leaves no document "
                "out, expected more: set --answering.least_relevance, or leave the condition out"
            )


def check_questions(questions: Sequence[Question]) -> None:
    """Raise ValueError for no questions, ids that occur twice, or no golden answers."""
    if not questions:
        raise ValueError("got no questions, expected at least one: check the question set")
    # Answers are kept by id: two questions of one id would share theirs.
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


def set_identity(question_set: QuestionSet) -> dict[str, str]:
    """Return name and fingerprints, to be kept beside results: other questions are noticed."""
    # Not the metadata: no answer depends on it.
    contents = [
        (q.id, q.question, list(q.golden_answers), list(q.gold_ids)) for q in question_set.questions
    ]
    return {
        "name": question_set.name,
        "questions": fingerprint(contents),
        # Sorted: in what order a corpus is read makes no difference.
        "documents": fingerprint(sorted(document.id for document in question_set.documents)),
    }


@dataclass(frozen=True)
class _Cells:
    """The conditions of one question set: the pipeline, and the documents of each."""

    rag: ParametricRAG
    assignment: Assignment
    rows: Mapping[str, Rows]
    ask: Ask = attrgetter("question")

    def make_adapters(
        self, conditions: Iterable[Condition], others: Iterable[str], folder: Path
    ) -> None:
        """Make the adapters that the conditions' answers to come need, and others, by document.

        How many and how long it took is added to the folder's file of that.
        """
        needed: dict[str, None] = {}  # in order, each once
        for condition in conditions:
            missing = self._missing(condition, folder)
            if missing and condition.reads_adapters(self.rag.answerer.options):
                rows = self.rows[condition.name]
                of_all = condition.documents == "all"
                asked = self.assignment.usual_rows if of_all else [rows[n] for n in missing]
                needed |= dict.fromkeys(hit.document_id for row in asked for hit in row)
        needed |= dict.fromkeys(others)
        if needed:
            marks: list[tuple[int, float]] = []  # adapters that are there, and when

            def step(done: int) -> None:
                marks.append((done, time.perf_counter()))
                advance(done)

            with progress_bar("adapters", len(needed)) as advance:
                try:
                    self.rag.ensure_adapters(needed, step)
                finally:  # also of what an interrupted run has made
                    if marks and marks[-1][0] > marks[0][0]:
                        (first, began), (last, ended) = marks[0], marks[-1]
                        row = {"documents": last - first, "seconds": round(ended - began, 3)}
                        whole_lines(folder / MAKING)  # one that was cut off goes
                        append_answers(folder / MAKING, [row])

    def _missing(self, condition: Condition, folder: Path) -> list[int]:
        """Return the places of the questions that the condition's file has no answer to."""
        finished = read_answers(answers_path(folder, condition.name))
        return [n for n, q in enumerate(self.assignment.questions) if q.id not in finished]

    def answer(self, condition: Condition, folder: Path, chunk: int) -> None:
        """Answer what the condition's file does not have yet; every chunk is written at once."""
        questions, path = self.assignment.questions, answers_path(folder, condition.name)
        answerer = self.rag.answerer
        if condition.documents == "all":  # one adapter for all questions, as in mode sft
            answerer = replace(answerer, corpus_adapter=lambda: self._mean)
        # A condition may set what the user did not: rank, weights of a merge.
        options = condition.options(answerer.options)
        rows, missing = self.rows[condition.name], self._missing(condition, folder)
        # What is made once is made before any question is timed, as adapters are.
        if missing and condition.how.adapters == "corpus":
            answerer.corpus_adapter()
        read = dict.fromkeys(hit.document_id for n in missing for hit in rows[n])
        if read and condition.how.passages == "augmented" and answerer.augmenter:
            augmented = answerer.augmenter.augment([answerer.document(i) for i in read])
            by_id = {a.document.id: a for a in augmented}
            written = _Written(by_id, answerer.augmenter.fingerprint)
            answerer = replace(answerer, augmenter=written)
        if condition.how.kept:
            answerer.keep_passages(read, options)
        with progress_bar(condition.name, len(questions)) as advance:
            advance(len(questions) - len(missing))
            for start in range(0, len(missing), chunk):
                places = missing[start : start + chunk]
                texts = [self.ask(questions[n]) for n in places]
                hits = [rows[n] for n in places]
                began = time.perf_counter()
                answers = answerer.answer(texts, hits, condition.mode, options, strict=False)
                seconds = (time.perf_counter() - began) / len(places)  # a question, on average
                pairs = zip(places, answers, strict=True)
                append_answers(path, [_record(questions[n], a, seconds) for n, a in pairs])
                advance(len(questions) - len(missing) + start + len(places))

    @cached_property
    def _mean(self) -> Adapter:
        """The mean of the adapters of all questions' usual documents."""
        rows = self.assignment.usual_rows
        ids = dict.fromkeys(hit.document_id for row in rows for hit in row)
        return mean_adapter(self.rag.adapter(i) for i in ids)


@dataclass(frozen=True)
class _Written:
    """Augmenter that has written already."""

    by_id: Mapping[str, AugmentedDocument]
    fingerprint: str

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Return what was written about each document."""
        return [self.by_id[document.id] for document in documents]


def _record(question: Question, answer: Answer, seconds: float) -> dict[str, object]:
    """Return one line of CONDITION.jsonl; seconds is the chunk's mean."""
    record = scored(question, answer.text, seconds) | {
        "documents": [
            {
                "id": source.document_id,
                "score": float(source.score),
                "weight": source.weight,
                "bytes": source.bytes,
            }
            for source in answer.documents
        ],
        "path": answer.path,
        "prompt": answer.prompt,
    }
    if answer.notes:  # what was cut of the prompt, why nothing was answered
        record["notes"] = [*answer.notes]
    return record


def scored(question: Question, text: str, seconds: float = 0.0) -> dict[str, object]:
    """Return the record of an answer with its scores."""
    return {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "prediction": text,
        "scores": asdict(score_answer(text, question.golden_answers)),
        # Rounded: noise would only make the file longer.
        "seconds": round(seconds, 6),
    }
