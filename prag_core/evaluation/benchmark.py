"""Benchmark: a grid of evaluations: groups of cells go in, answers of every cell come out.

    groups -> questions of each -> evaluate (CONDITION.jsonl, resumable) -> `benchmark_results`

A finished cell is not run again: a second run of a finished benchmark loads no model and no data.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document, read_documents, require_all_read
from prag_core.corpus.question_sets import QuestionSet, load_question_set
from prag_core.corpus.questions import Question
from prag_core.evaluation.belief import BELIEF
from prag_core.evaluation.benchmark_options import UNADAPTED, BenchmarkSet, Group
from prag_core.evaluation.estimates import document_groups
from prag_core.evaluation.evaluate import Ask, evaluate
from prag_core.evaluation.recitation import REQUEST, long_answers, recitation_set, requests
from prag_core.evaluation.results import answers_path, claim_folder, conditions_in, read_answers
from prag_core.files import locked, write_json
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.hardware import machine
from prag_core.pipeline.parts import build_parametrizer
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Retriever
from prag_core.training.initial import load_reader

PLAN, QUESTIONS = "asked", "questions.json"  # a group's config and questions, in its folder
RUN = "run.json"  # in a base model's folder: what its answers were made with


def run_benchmark(groups: Sequence[Group], folder: Path, skip_bad: bool = False) -> dict[str, str]:
    """Run what is not finished, base model by base model.

    Args:
        groups: all cells.
        folder: gets a store of adapters for each base model.
        skip_bad: leave out bad records and questions whose gold documents are missing.

    Returns:
        What went wrong, by cell; other cells are run all the same.

    Raises:
        ValueError: answers that were made with another config; then nothing is loaded.
        TimeoutError: another process writes to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for group in groups:
            claim_folder(group.folder / PLAN, group.config(), conditions_in(group.folder))
        for cache in (_load, _corpus, _retriever):  # files may have changed since another run
            cache.cache_clear()
        failures: dict[str, str] = {}
        for label, members in groupby(groups, key=lambda group: group.model.label):
            unfinished = [group for group in members if missing_conditions(group)]
            if unfinished:
                _keep_run(folder / label)
                failures |= _run_model(unfinished, folder / label / "store", skip_bad)
    return failures


def missing_conditions(group: Group) -> list[str]:
    """Return the conditions that the folder does not hold in full."""
    ids = {question["id"] for question in kept_questions(group)}
    answers = {c: read_answers(answers_path(group.folder, c)).keys() for c in group.conditions}
    return [condition for condition, answered in answers.items() if not ids or ids - answered]


def kept_questions(group: Group) -> list[dict]:
    """Return what is kept of a group's questions: {id, type, total, documents}.

    Questions that share one of the documents are resampled together, in all seeds.

    Those about altered texts, and requests for texts, also {golden_answers, metadata}.
    """
    # Known from an earlier run, so that a finished group needs no data.
    path = group.folder / PLAN / QUESTIONS
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    # An earlier version kept one document, which named the group.
    return [row if "documents" in row else row | {"documents": [row["document"]]} for row in rows]


def _keep_run(folder: Path) -> None:
    """Note code, machine and command of answers; a run that goes on with others' adds its commit.

    What is rendered later, from answers that are there, is of the run that gave them.
    """
    facts, earlier = machine(), (read_run(folder)["commit"] or "").split(", ")
    named = ", ".join(dict.fromkeys(filter(None, [*earlier, commit()])))
    run = {
        "commit": named or None,
        "command": shlex.join(["prag", *sys.argv[1:]]),
        "versions": facts.pop("versions") | {"python": facts.pop("python")},
        "machine": facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN, run)


def read_run(folder: Path) -> dict:
    """Return commit, command, versions and machine of a base model's answers."""
    if not (path := folder / RUN).exists():
        return dict.fromkeys(("commit", "command", "versions", "machine"))
    run: dict = json.loads(path.read_text(encoding="utf-8"))
    return run


def commit() -> str | None:
    """Return the commit of this code, marked where files differ from it; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + (" with changes" if changed.strip() else "")


def _run_model(groups: Sequence[Group], store: Path, skip_bad: bool) -> dict[str, str]:
    setup, failures = groups[0].setup, {}
    try:
        base = load_base_model(setup.base_model, setup.dtype, setup.device)
    except Exception as error:  # whatever it is, other base models are run
        return {g.cell(c): _reason(error) for g in groups for c in missing_conditions(g)}
    with AdapterStore(store) as opened:
        for group in groups:
            try:
                whole = load_set(group.spec, skip_bad)
                part, total = choose_questions(whole, group)
                _keep_questions(group, part, total)
                rag = _pipeline(group, base, opened, part.documents, whole.documents)
            except Exception as error:  # whatever it is, other groups are run
                failures |= {group.cell(c): _reason(error) for c in missing_conditions(group)}
                continue
            cell = f"{group.cell(', '.join(group.conditions))}: {len(part.questions)} questions"
            Console(stderr=True).print(cell, highlight=False, soft_wrap=True)
            failures |= _answer(group, rag, part)
    return failures


def _answer(group: Group, rag: ParametricRAG, questions: QuestionSet) -> dict[str, str]:
    """Answer in all conditions at once; where that fails, in one after the other."""
    config, failures = group.run_config() | rag.identity, {}
    ask: Ask = attrgetter("question")
    if group.spec.recite:
        ask = requests(rag.base)
        rag.generation = long_answers(rag.base, questions.questions, rag.generation)
    rest = group.folder, config
    try:
        evaluate(rag, questions, group.evaluation(group.conditions), *rest, ask=ask)
        return {}
    except Exception:  # whatever it is: the condition that fails shows below, and others are run
        for condition in missing_conditions(group):
            try:
                evaluate(rag, questions, group.evaluation([condition]), *rest, ask=ask)
            except Exception as error:
                failures[group.cell(condition)] = _reason(error)
    return failures


def _pipeline(
    group: Group,
    base: BaseModel,
    store: AdapterStore,
    documents: tuple[Document, ...],
    source: Sequence[Document],
) -> ParametricRAG:
    """Put a group's pipeline together; `source` are all documents that the set has."""
    setup = group.setup
    # Conditions that share a folder have no adapters: no checkpoint is loaded for them.
    adapted = group.path not in UNADAPTED
    parametrizer = build_parametrizer(base, setup, store, source) if adapted else None
    # Documents of gold retrieval are nobody else's: their index is not kept.
    build = _retriever if group.spec.retrieval == "retriever" else make_retriever
    return ParametricRAG(
        base,
        build(setup.retriever, documents, setup.least_coverage, setup.least_similarity),
        parametrizer,
        store,
        generation=setup.generation,
        options=setup.answering,
        documents=documents,  # the store serves all question sets
        reader=load_reader(setup.reader, base),
    )


@lru_cache(maxsize=1)  # groups that follow each other search the same corpus
def _retriever(name: str, documents: tuple[Document, ...], *least: float) -> Retriever:
    return make_retriever(name, sorted(documents, key=lambda document: document.id), *least)


@lru_cache
def _corpus(source: str, skip_bad: bool) -> tuple[Document, ...]:
    counts: Counter[str] = Counter()
    documents = tuple(read_documents(source, skip_bad, counts))
    require_all_read(source, skip_bad, counts)  # a smaller corpus is easier to search
    return documents


_load = lru_cache(load_question_set)


def load_set(spec: BenchmarkSet, skip_bad: bool = False) -> QuestionSet:
    """Load a source with its corpus, each once.

    Raises:
        ValueError: no corpus, or what `load_question_set` refuses.
    """
    whole = _load(spec.source, spec.split, skip_bad=skip_bad)
    if spec.corpus:
        whole = replace(whole, documents=_corpus(spec.corpus, skip_bad))
    if not whole.documents:
        raise ValueError(
            f"got no documents with {spec.source}, expected a corpus to search: set `corpus` of "
            f"{spec.label}"
        )
    return whole


def choose_questions(whole: QuestionSet, group: Group) -> tuple[QuestionSet, set[str]]:
    """Choose a group's questions in the set's order, and the ids that count for the total.

    With a limit, the choice is a part of the one without.
    """
    spec, seed, limit = group.spec, group.seed, group.limit
    if spec.documents or spec.most_words:
        whole = whole.sample(spec.documents, seed, spec.keep_corpus, spec.most_words)
    if front := spec.first or spec.per_type:
        count, seen, questions = min(front, limit or front), Counter(), []
        for question in whole.questions:
            kind = sub_task(question) if spec.per_type else ""
            seen[kind] += 1
            questions += [question] * (seen[kind] <= count)
        total = {question.id for question in whole.questions[:count]}
    else:  # the second draw is made among the first
        drawn = whole.sample_questions(spec.questions, seed).sample_questions(limit, seed)
        questions, total = drawn.questions, {question.id for question in drawn.questions}
    documents = whole.documents
    if spec.retrieval == "gold" and not spec.keep_corpus:  # no adapters that nobody asks
        gold = {gold_id for question in questions for gold_id in question.gold_ids}
        documents = tuple(document for document in documents if document.id in gold)
    part = QuestionSet(spec.label, documents, tuple(questions))
    if spec.recite:
        part = recitation_set(part)
        total = {request.id for request in part.questions}
    return part, total


def sub_task(question: Question) -> str:
    """Return the sub-task of a question, empty where its set has none."""
    return str(question.metadata.get("type", ""))


def _keep_questions(group: Group, part: QuestionSet, total: set[str]) -> None:
    """Write the questions beside the answers; those of other answers are not overwritten."""
    rows = [
        {"id": q.id, "type": sub_task(q), "total": q.id in total,
         "documents": [*q.gold_ids] or document_groups([q])}
        | ({"golden_answers": [*q.golden_answers], "metadata": q.metadata}
           if {BELIEF, REQUEST} & {*q.metadata} else {})
        for q in part.questions
    ]  # fmt: skip
    # Without the documents, of which an earlier version kept one.
    kept, new = ([{k: v for k, v in row.items() if k != "documents"} for row in each]
                 for each in (kept_questions(group), rows))  # fmt: skip
    if conditions_in(group.folder) and kept not in ([], new):
        raise ValueError(
            f"got other questions from {group.spec.source} than the answers in {group.folder} are "
            "to, expected the same: bring the source back, or choose another output"
        )
    write_json(group.folder / PLAN / QUESTIONS, rows)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
