"""Belief: question sets and a base model go in, a set that contradicts the model comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from prag_core.corpus.question_sets import QuestionSet, load_question_set
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.files import require_no_set, write_json, write_set
from prag_core.pipeline.setup import Setup


def belief(
    question_sets: tuple[str, ...] | str,
    to: str,
    setup: Setup,
    questions: int = 0,
    seed: int = 0,
    skip_bad: bool = False,
) -> None:
    """Write a question set whose texts contradict what the base model answers right.

    Every question is asked closed-book first; may be stopped at any time, the same command goes
    on where it was. `prag evaluate TO` then says how often an answer is the text's `fact`, the
    model's `belief`, or another. Small models answer few questions: name several sets.

    Args:
        question_sets: one, or several as [A,B]: folders, files, or hub names, whose gold documents
            hold the answers.
        to: folder to write: corpus.jsonl, questions.jsonl, belief.json (whose beliefs; how many
            questions were left out, and why), and the closed-book answers.
        setup: shared settings.
        questions: draw so many of each set's questions; 0 takes all.
        seed: of the draws.
        skip_bad: leave out bad records and questions whose gold documents are missing.
    """
    from prag_core.evaluation.belief import contradict
    from prag_core.evaluation.evaluate import evaluate
    from prag_core.evaluation.results import answers_path, read_answers
    from prag_core.model.base_model import load_base_model
    from prag_core.pipeline.rag import ParametricRAG

    names = (question_sets,) if isinstance(question_sets, str) else question_sets
    sets = [load_question_set(name, skip_bad=skip_bad) for name in names]
    if len({whole.name for whole in sets}) < len(sets) or not sets:
        raise ValueError(
            f"got question sets {', '.join(names) or 'none'}, expected one or more with different "
            "names: rename a folder"
        )
    folder = Path(to)
    require_no_set(folder, "belief.json")
    _require_same_sets(folder, [whole.name for whole in sets])
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    rag = ParametricRAG(base, generation=setup.generation, options=setup.answering)
    config = setup.answer_config() | rag.identity
    parts, counts = [], {}
    options = EvaluationOptions(("closed_book",), seed=seed)
    for whole in (whole.sample_questions(questions, seed) for whole in sets):
        answers = folder / "closed_book" / whole.name
        evaluate(rag, replace(whole, documents=()), options, answers, config)
        records = read_answers(answers_path(answers, "closed_book"))
        right = {
            question.id for question in whole.questions
            if records[question.id]["scores"]["containment"]
        }  # fmt: skip
        part, counts[whole.name] = contradict(whole, right, seed)
        parts.append(part)
    for name, sizes in counts.items():
        print(f"{name}: {', '.join(f'{count} {what}' for what, count in sizes.items())}")
    if not any(part.questions for part in parts):
        raise ValueError(
            "got no question whose text could be altered, expected some that the base model "
            "answers right: name more question sets, or a larger model"
        )
    about = {"base_model": setup.base_model, "seed": seed, "sets": counts}
    write_json(folder / "belief.json", about | rag.identity)
    _write(folder, parts)


def _require_same_sets(folder: Path, names: list[str]) -> None:
    """Raise ValueError for a folder that holds what was made of other question sets."""
    path = folder / "belief.json"
    made_of = [*json.loads(path.read_text("utf-8"))["sets"]] if path.exists() else names
    if made_of != names:
        raise ValueError(
            f"got {folder}, made of {', '.join(made_of)}, expected a folder for "
            f"{', '.join(names)}: choose another"
        )


def _write(folder: Path, parts: list[QuestionSet]) -> None:
    """Write corpus.jsonl and questions.jsonl; ids say which set they are of."""
    documents = {d.id: d for part in parts for d in part.documents}
    corpus = [{"id": d.id, "title": d.title, "text": d.text} for d in documents.values()]
    questions = [
        {"id": f"{part.name}:{q.id}", "question": q.question,
         "golden_answers": list(q.golden_answers), "gold_ids": list(q.gold_ids),
         "metadata": q.metadata | {"set": part.name}}
        for part in parts for q in part.questions
    ]  # fmt: skip
    write_set(folder, corpus, questions)
