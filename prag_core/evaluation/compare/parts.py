"""Parts of a comparison beside quality: knowledge, similarity, side effects, merging."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from prag_core.adapters.similarity import Sketcher, compare_adapters, summarise
from prag_core.evaluation.compare.likelihood import answer_sequences, mean_nll, text_sequences
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question
from prag_core.evaluation.assignment import neighbours, other_documents
from prag_core.evaluation.conditions import SHUFFLED
from prag_core.evaluation.estimates import Bootstrap, Estimate
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.bm25 import Hit

Rags = Mapping[str, ParametricRAG]


def knowledge(
    rags: Rags, documents: Sequence[Document], questions: Sequence[Question], seed: int
) -> dict:
    """Return the `knowledge` part: NLL of texts and golden answers in every condition.

    Args:
        rags: the pipelines by path.
        documents: whose texts are scored, each with its own, another's and no adapter.
        questions: with one gold document each, among `documents`; may be empty.
        seed: of the shuffling and the bootstrap.
    """
    base = next(iter(rags.values())).base
    ids = [document.id for document in documents]
    others = _others(ids, seed)
    sequences = text_sequences(base, documents)
    text = {"none": mean_nll(base, sequences)}
    for path, rag in rags.items():
        text[f"{path}/own"] = mean_nll(base, sequences, ids, rag.adapter)
        if others:
            shuffled = [others[i] for i in ids]
            text[f"{path}/other"] = mean_nll(base, sequences, shuffled, rag.adapter)
    answers = _answer_nll(rags, documents, questions, others) if questions else None
    part = {
        "text": {name: asdict(estimate(np.array(v), seed)) for name, v in text.items()},
        "answers": None,
        "gap_closed": {},
        "per_document": [
            {"id": i, "text": {name: v[n] for name, v in text.items()}, "answers": None}
            for n, i in enumerate(ids)
        ],
    }
    if answers:
        part["answers"] = {name: asdict(estimate(np.array(v), seed)) for name, v in answers.items()}
        gaps = {path: _gap_closed(answers, path, seed) for path in rags}
        part["gap_closed"] = {path: gap for path, gap in gaps.items() if gap}
        rows: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            rows.setdefault(question.gold_ids[0], []).append(index)
        for entry in part["per_document"]:
            if places := rows.get(entry["id"]):
                entry["answers"] = {
                    name: float(np.mean([v[i] for i in places])) for name, v in answers.items()
                }
    return part


def estimate(values: np.ndarray, seed: int) -> Estimate:
    """Return the mean of one value a document or question."""
    return Bootstrap(range(len(values)), seed).mean(values)


def _others(ids: Sequence[str], seed: int) -> dict[str, str]:
    """Return another document for each; none where there is only one."""
    if len(ids) < 2:
        return {}
    rows = [[i] for i in ids]
    circle = random.Random(seed).sample(ids, len(ids))
    others = other_documents(rows, rows, circle, 1)
    return {i: row[0] for i, row in zip(ids, others, strict=True)}


def _answer_nll(
    rags: Rags,
    documents: Sequence[Document],
    questions: Sequence[Question],
    others: Mapping[str, str],
) -> dict[str, list[float]]:
    base = next(iter(rags.values())).base
    texts = {document.id: document for document in documents}
    gold = [question.gold_ids[0] for question in questions]
    plain = answer_sequences(base, questions, [()] * len(questions))
    read = answer_sequences(base, questions, [[texts[i]] for i in gold])
    answers = {"closed_book": mean_nll(base, plain), "in_context": mean_nll(base, read)}
    for path, rag in rags.items():
        answers[f"{path}/parametric"] = mean_nll(base, plain, gold, rag.adapter)
        if others:
            shuffled = [others[i] for i in gold]
            answers[f"{path}/{SHUFFLED}"] = mean_nll(base, plain, shuffled, rag.adapter)
    return answers


def _gap_closed(answers: Mapping[str, Sequence[float]], path: str, seed: int) -> dict | None:
    """Return (closed_book - parametric) / (closed_book - in_context) with its interval.

    None where reading the document does not surely help: there is no gap to close.
    """
    closed, read = np.array(answers["closed_book"]), np.array(answers["in_context"])
    top, bottom = closed - np.array(answers[f"{path}/parametric"]), closed - read
    gained = estimate(bottom, seed)
    if gained.low is None or gained.low <= 0:
        return None
    return asdict(Bootstrap(range(len(top)), seed).ratio(top, bottom))


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


def side_effects(
    rags: Rags,
    known: Mapping[str, object],
    answers: Mapping[str, Mapping[str, dict]],
    questions: Sequence[Question],
    seed: int,
) -> dict:
    """Return the `side_effects` part: what an adapter does to text and questions of others.

    Args:
        rags: the pipelines by path.
        known: the `knowledge` part; its NLL with another document's adapter is read.
        answers: of the modes asked, by mode and question id (see `compare_quality.ask`).
        questions: asked.
        seed: of the bootstrap.
    """
    part = {}
    for path in rags:
        rows = [entry["text"] for entry in known["per_document"]]
        if f"{path}/other" not in known["text"]:
            continue
        without = np.array([row["none"] for row in rows])
        with_other = np.array([row[f"{path}/other"] for row in rows])
        change = asdict(Bootstrap(range(len(rows)), seed).ratio(with_other - without, without))
        part[path] = {
            "text_without": known["text"]["none"],
            "text_with": known["text"][f"{path}/other"],
            "change": change,
            "changed_answers": None,
            "kept": None,
        }
        plain, shuffled = answers.get("closed_book"), answers.get(f"{path}/{SHUFFLED}")
        if plain and shuffled:
            part[path] |= _changed(plain, shuffled, [q.id for q in questions], seed)
    return part


def _changed(
    plain: Mapping[str, dict], shuffled: Mapping[str, dict], ids: Sequence[str], seed: int
) -> dict:
    """Return the share of answers that another document's adapter changes, and of right ones."""
    changed = [plain[i]["prediction"] != shuffled[i]["prediction"] for i in ids]
    right = [i for i in ids if plain[i]["scores"]["containment"]]
    kept = [shuffled[i]["scores"]["containment"] for i in right]
    return {
        "changed_answers": asdict(estimate(np.array(changed, dtype=float), seed)),
        "kept": asdict(estimate(np.array(kept), seed)) if kept else None,
    }


def merging(
    rags: Rags,
    documents: Sequence[Document],
    questions: Sequence[Question],
    counts: Sequence[int],
    weightings: Sequence[str],
    seed: int,
) -> dict | None:
    """Return the `merging` part: containment over k, the gold document among k - 1 others.

    Half of the others are BM25 neighbours of the gold document. Those at a smaller k are among
    those at a larger one, and documents come in a seeded order. None where no k is small enough.

    Args:
        rags: the pipelines by path.
        documents: gold documents and distractors.
        questions: with one gold document each.
        counts: values of k; those beyond the number of documents are left out.
        weightings: see `merge.merge_weights`.
        seed: of the distractors, the order and the bootstrap.
    """
    counts = sorted({k for k in counts if k <= len(documents)})
    if not counts:
        return None
    ranked = _mixed_hits(rags, documents, questions, counts[-1], seed)
    hits = {k: _shuffled([row[:k] for row in ranked], seed) for k in counts}
    series: dict[str, list[dict]] = {"in_context": []}
    first = next(iter(rags.values()))
    for k in counts:
        values = _contained(first, questions, hits[k], "in_context")
        series["in_context"].append(asdict(estimate(values, seed)))
    for path, rag in rags.items():
        for weighting in weightings:
            points = series.setdefault(f"{path}/{weighting}", [])
            for k in counts:
                if k == 1 and weighting != weightings[0]:  # one document: every weighting is 1
                    points.append(series[f"{path}/{weightings[0]}"][0])
                    continue
                values = _contained(rag, questions, hits[k], "parametric", weighting)
                points.append(asdict(estimate(values, seed)))
    return {"k": counts, "n": len(questions), "metric": "containment", "series": series}


def _mixed_hits(
    rags: Rags, documents: Sequence[Document], questions: Sequence[Question], k: int, seed: int
) -> list[list[Hit]]:
    """Return every question's gold document and k - 1 others, with their retrieval scores."""
    rag, place = next(iter(rags.values())), {d.id: i for i, d in enumerate(documents)}
    gold = [place[question.gold_ids[0]] for question in questions]
    asked = sorted(set(gold))
    others = dict(zip(asked, neighbours(documents, k - 1, seed, asked), strict=True))
    found = rag.retrieve([q.question for q in questions], len(rag.documents))
    rows = []
    for own, ranked in zip(gold, found, strict=True):
        scores = {hit.document_id: hit.score for hit in ranked}
        row = [documents[i].id for i in (own, *others[own])]
        rows.append([Hit(i, scores.get(i, 0.0)) for i in row])
    return rows


def _shuffled(rows: list[list[Hit]], seed: int) -> list[list[Hit]]:
    draw = random.Random(seed)
    return [draw.sample(row, len(row)) for row in rows]


def _contained(
    rag: ParametricRAG,
    questions: Sequence[Question],
    hits: Sequence[Sequence[Hit]],
    mode: str,
    weighting: str = "ones",
) -> np.ndarray:
    """Answer from these documents; 1 where the golden answer is contained."""
    options = replace(rag.options, merge_weights=weighting)
    answers = rag.answerer.answer([q.question for q in questions], hits, mode, options)
    return np.array(
        [
            score_answer(answer.text, question.golden_answers).containment
            for question, answer in zip(questions, answers, strict=True)
        ]
    )
