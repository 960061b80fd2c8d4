"""Quality: every mode of every path is asked the same questions; what they score is paired.

Modes that do not depend on the path are asked once. Controls: another document's adapter
(`shuffled`), the mean of all documents' updates (`mean`), one adapter of the whole corpus (`sft`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from prag_core.corpus.answer_scores import METRICS
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.conditions import SHUFFLED
from prag_core.evaluation.estimates import Bootstrap, document_groups
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.options import EvaluationOptions
from prag_core.evaluation.results import Scores, answers_path, read_answers
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import ParametricRAG

SHARED_MODES = ("closed_book", "in_context", "da_rag", "sft")  # the same for every path
PATH_MODES = ("parametric", "combine", SHUFFLED, "mean")
MODES = (*SHARED_MODES, *PATH_MODES)


def ask(
    rags: Mapping[str, ParametricRAG],
    question_set: QuestionSet,
    options: EvaluationOptions,
    modes: Sequence[str],
    folder: Path,
    setup: Setup,
) -> tuple[dict[str, dict[str, dict]], list[str]]:
    """Ask all questions in all modes; resumable, what a folder holds is not asked again.

    Args:
        rags: the pipelines by path.
        question_set: documents and questions.
        options: documents a question and sample (its own modes are not read).
        modes: of `MODES`.
        folder: gets a folder of answers for the shared modes and for every path.
        setup: settings that the answers depend on.

    Returns:
        Answers by mode (`PATH/MODE` for a path's own) and question id, and notes on modes left out.
    """
    answers: dict[str, dict[str, dict]] = {}
    notes: list[str] = []
    first = next((p for p, rag in rags.items() if hasattr(rag.parametrizer, "train_global")), None)
    shared = [mode for mode in SHARED_MODES if mode in modes]
    if first is None and "sft" in shared:
        shared.remove("sft")
        notes.append("sft is left out: one adapter of the whole corpus needs the trained path.")
    owner = first or next((p for p, rag in rags.items() if rag.augmenter), None)
    if owner is None and "da_rag" in shared:
        shared.remove("da_rag")
        notes.append("da_rag is left out: augmented passages need the trained path.")
    modes = list(modes)
    if SHUFFLED in modes and len(question_set.documents) < 2:
        modes.remove(SHUFFLED)
        notes.append("shuffled is left out: it needs another document.")
    plan = [("shared", owner or next(iter(rags)), shared)]
    plan += [(path, path, [m for m in PATH_MODES if m in modes]) for path in rags]
    for name, path, asked in plan:
        if asked:
            chosen = replace(options, conditions=tuple(asked))
            place, rag = folder / name, rags[path]
            config = replace(setup, path=path).answer_config()
            config["base_fingerprint"] = rag.base.fingerprint
            evaluate(rag, question_set, chosen, place, config)
            prefix = "" if name == "shared" else f"{path}/"
            answers |= {prefix + m: read_answers(answers_path(place, m)) for m in asked}
    return answers, notes


def quality(
    answers: Mapping[str, Mapping[str, dict]], questions: Sequence[Question], seed: int
) -> dict:
    """Return the `quality` part of a comparison: modes, paired differences, documents.

    Args:
        answers: scored answers by mode and question id.
        questions: the questions asked.
        seed: of the bootstrap and the permutations.
    """
    ids = [question.id for question in questions]
    bootstrap = Bootstrap(document_groups(questions), seed)
    values = {
        mode: {m: np.array([found[i]["scores"][m] for i in ids]) for m in METRICS}
        for mode, found in answers.items()
    }
    modes = {
        mode: {
            "n": len(ids),
            "seconds": round(sum(found[i]["seconds"] for i in ids), 3),
            "metrics": {m: asdict(bootstrap.mean(values[mode][m])) for m in METRICS},
        }
        for mode, found in answers.items()
    }
    return {
        "modes": modes,
        "differences": [_difference(a, b, values, bootstrap) for a, b in _pairs(values)],
        "per_document": _per_document(values, questions),
    }


def disagreements(
    answers: Mapping[str, Mapping[str, dict]],
    questions: Sequence[Question],
    titles: Mapping[str, str],
    paths: Sequence[str],
) -> list[dict]:
    """Return the questions that one path's adapters answer right and another's do not."""
    found = []
    for question in questions:
        rows = {path: answers[f"{path}/parametric"][question.id] for path in paths}
        right = {path: row["scores"]["containment"] for path, row in rows.items()}
        if len(set(right.values())) > 1:
            documents = next(iter(rows.values()))["documents"]
            found.append(
                {
                    "question": question.question,
                    "golden_answers": list(question.golden_answers),
                    "document": ", ".join(titles[d["id"]] for d in documents),
                    "answers": {path: row["prediction"] for path, row in rows.items()},
                    "contained": right,
                }
            )
    return found


def _pairs(modes: Iterable[str]) -> list[tuple[str, str]]:
    """Name the differences that say something: path against path, adapter against its controls."""
    modes = list(modes)
    paths = list(dict.fromkeys(mode.split("/")[0] for mode in modes if "/" in mode))
    wanted = [
        (f"{b}/{mode}", f"{a}/{mode}")
        for a, b in itertools.combinations(paths, 2)
        for mode in ("parametric", "combine")
    ]
    for path in paths:
        own = f"{path}/parametric"
        others = (f"{path}/{SHUFFLED}", f"{path}/mean", "sft", "closed_book", "in_context")
        wanted += [(own, other) for other in others] + [(f"{path}/combine", "in_context")]
    return [(a, b) for a, b in wanted if a in modes and b in modes]


def _difference(a: str, b: str, values: Mapping[str, Scores], bootstrap: Bootstrap) -> dict:
    """Return a - b with interval and p."""
    pairs = {m: (values[a][m], values[b][m]) for m in METRICS}
    metrics = {m: asdict(bootstrap.difference(*pair)) for m, pair in pairs.items()}
    return {"a": a, "b": b, "metrics": metrics}


def _per_document(values: Mapping[str, Scores], questions: Sequence[Question]) -> list[dict]:
    """Average containment over the questions of every document that is a question's only gold."""
    rows: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        if len(question.gold_ids) == 1:
            rows.setdefault(question.gold_ids[0], []).append(index)
    return [
        {
            "id": document_id,
            "questions": len(places),
            "containment": {m: float(v["containment"][places].mean()) for m, v in values.items()},
        }
        for document_id, places in rows.items()
    ]
