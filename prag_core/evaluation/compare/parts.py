"""Parts that look at the adapters themselves: knowledge, similarity, side effects.

What an adapter knows shows before a word is decoded: how likely it makes the document's own text
and the golden answers. Conditions are called as in `evaluate`: `closed_book` (no adapter),
`in_context` (the passage in the prompt), `PATH/parametric` (the document's own adapter) and
`PATH/shuffled` (another's).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from prag_core.adapters.similarity import Sketcher, compare_adapters, summarise
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question
from prag_core.evaluation.compare.cells import Cells, Rags
from prag_core.evaluation.estimates import Bootstrap, Estimate, document_groups
from prag_core.evaluation.likelihood import answer_sequences, mean_nll, text_sequences
from prag_core.evaluation.results import KEPT
from prag_core.model.wordings import reading_wording

Losses = Mapping[str, Sequence[float]]  # condition -> mean NLL of every text or answer


def knowledge(
    rags: Rags, documents: Sequence[Document], questions: Sequence[Question], seed: int
) -> dict:
    """Return the `knowledge` part: loss of texts and golden answers in every condition.

    Args:
        rags: the pipelines by path.
        documents: whose texts are scored.
        questions: with one gold document each, among `documents`; may be empty.
        seed: of the bootstrap.
    """
    text, answers = _losses(rags, documents, questions)
    ids = [document.id for document in documents]
    part = {
        "text": _means(text, Bootstrap(ids, seed)),
        "answers": None,
        "gap_closed": {},
        "per_document": {
            i: {name: losses[row] for name, losses in text.items()} for row, i in enumerate(ids)
        },
    }
    if questions:
        bootstrap = Bootstrap(document_groups(questions), seed)
        part["answers"] = _means(answers, bootstrap)
        gaps = {path: _gap_closed(answers, path, bootstrap) for path in rags}
        part["gap_closed"] = {path: asdict(gap) for path, gap in gaps.items() if gap}
    return part


def _losses(
    rags: Rags, documents: Sequence[Document], questions: Sequence[Question]
) -> tuple[Losses, Losses]:
    """Return the losses of texts and of golden answers by condition."""
    base = next(iter(rags.values())).base
    by_id = {document.id: document for document in documents}
    ids, golden = [*by_id], [question.gold_ids[0] for question in questions]
    others = dict(zip(ids, np.roll(ids, -(len(ids) // 2)).tolist(), strict=True))  # half way round
    texts = text_sequences(base, documents)
    # As answers are asked for: reading in the base model's wording, adapters in their own.
    reading = reading_wording(base.fingerprint)
    plain = answer_sequences(base, questions, [()] * len(questions), reading)
    read = answer_sequences(base, questions, [[by_id[i]] for i in golden], reading)
    # A text has no in_context: with itself in the prompt it would only be copied.
    text = {"closed_book": mean_nll(base, texts)}
    answers = {"closed_book": mean_nll(base, plain), "in_context": mean_nll(base, read)}
    for path, rag in rags.items():
        score = partial(mean_nll, base, load=rag.adapter)
        text[f"{path}/parametric"] = score(texts, ids)
        wording = rag.answerer.adapted_wording(rag.adapter(i) for i in golden[:1])
        plain = answer_sequences(base, questions, [()] * len(questions), wording)
        answers[f"{path}/parametric"] = score(plain, golden)
        if len(ids) > 1:  # else there is no other document
            text[f"{path}/shuffled"] = score(texts, [others[i] for i in ids])
            answers[f"{path}/shuffled"] = score(plain, [others[i] for i in golden])
    return text, answers


def _means(losses: Losses, bootstrap: Bootstrap) -> dict[str, dict]:
    return {name: asdict(bootstrap.mean(values)) for name, values in losses.items()}


def _gap_closed(answers: Losses, path: str, bootstrap: Bootstrap) -> Estimate | None:
    """Return (closed_book - parametric) / (closed_book - in_context) of the golden answers.

    None where reading the document does not surely help: there is no gap to close.
    """
    closed, read, known = (
        np.array(answers[name]) for name in ("closed_book", "in_context", f"{path}/parametric")
    )  # (N,) each
    gained = bootstrap.mean(closed - read)  # by reading the document
    if gained.low is None or gained.low <= 0:
        return None
    return bootstrap.ratio(closed - known, closed - read)


def similarity(rags: Rags, documents: Sequence[Document]) -> dict:
    """Return the `similarity` part (see `prag_core.adapters.similarity.compare_adapters`)."""
    began, sketcher = time.perf_counter(), Sketcher()
    part = compare_adapters(
        {
            path: summarise((rag.adapter(d.id) for d in documents), sketcher)
            for path, rag in rags.items()
        }
    )
    return part | {"seconds": time.perf_counter() - began}


def side_effects(knowledge_part: Mapping, cells: Cells, paths: Sequence[str], seed: int) -> dict:
    """Return the `side_effects` part: what an adapter does to text and questions of others.

    Args:
        knowledge_part: what `knowledge` returned.
        cells: of the question set.
        paths: compared.
        seed: of the bootstrap.
    """
    text, losses = knowledge_part["text"], knowledge_part["per_document"]
    bootstrap, part = Bootstrap([*losses], seed), {}
    for path in paths:
        if f"{path}/shuffled" not in text:
            continue
        without, with_other = (
            [row[name] for row in losses.values()] for name in ("closed_book", f"{path}/shuffled")
        )
        # Documents count by the loss of their text: a mean of ratios would follow the easiest ones.
        ratio = bootstrap.ratio(with_other, without)
        change = {n: None if end is None else end - 1 for n, end in asdict(ratio).items()}
        part[path] = {
            "text_without": text["closed_book"],
            "text_with": text[f"{path}/shuffled"],
            "change": change,
        } | _changed_answers(cells, path, seed)
    return part


def _changed_answers(cells: Cells, path: str, seed: int) -> dict:
    """Return the share of answers that another document's adapter changes, and of right ones kept.

    Empty where they were not asked.
    """
    plain, other = (cells.answers.get(name) for name in ("closed_book", f"{path}/shuffled"))
    if not plain or not other:
        return {}
    questions = cells.question_set.questions
    changed = [plain[q.id]["prediction"] != other[q.id]["prediction"] for q in questions]
    # Only what is right without an adapter can be spoilt.
    kept = cells.reports[path].ratios[KEPT]["containment"]
    bootstrap = Bootstrap(document_groups(questions), seed)
    return {"changed_answers": asdict(bootstrap.mean(changed)), "kept": kept and asdict(kept)}
