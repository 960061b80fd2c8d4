"""Parts that look at the adapters themselves: knowledge, similarity, side effects, cost.

What an adapter knows shows before a word is decoded: how likely it makes the document's own text
and the golden answers. Conditions are called as in `evaluate`: `closed_book` (no adapter),
`in_context` (the passage in the prompt), `PATH/parametric` (the document's own adapter) and
`PATH/shuffled` (another's).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from prag_core.adapters.adapter import Parametrizer
from prag_core.adapters.similarity import Sketcher, compare_adapters, summarise
from prag_core.corpus.documents import Document
from prag_core.corpus.questions import Question
from prag_core.evaluation.compare.cells import Cells, Rags
from prag_core.evaluation.conditions import SHUFFLED
from prag_core.evaluation.estimates import Bootstrap, Estimate, document_groups
from prag_core.evaluation.results import KEPT, without_adapter
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.modes import find_mode
from prag_core.retrieval.retriever import Hit
from prag_core.training.loop import mean_nll
from prag_core.training.sequences import answer_sequences, text_sequences

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
    # As answers are asked for: reading in that of the base model, adapters in their own.
    reading = next(iter(rags.values())).answerer.reading_wording()
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

    Empty where they were not asked in the same prompt: what another prompt changes is no effect of
    an adapter.
    """
    questions = cells.question_set.questions
    asked = {
        name.removeprefix(f"{path}/"): [answers[q.id] for q in questions]
        for name, answers in cells.answers.items()
    }
    plain = without_adapter(asked)
    if not plain or SHUFFLED not in asked:
        return {}
    pairs = zip(asked[plain], asked[SHUFFLED], strict=True)
    changed = [one["prediction"] != other["prediction"] for one, other in pairs]
    # Only what is right without an adapter can be spoilt.
    kept = cells.reports[path].ratios[KEPT]["containment"]
    bootstrap = Bootstrap(document_groups(questions), seed)
    return {"changed_answers": asdict(bootstrap.mean(changed)), "kept": kept and asdict(kept)}


CLEAR_PEAK = "5"  # proc(5): resets the peak resident set size
PUBLISHED = {
    "text": "an engine that keeps the keys and values of retrieved passages as prefixes comes up "
    "to 4 times sooner to the first token than vLLM that does not",
    "source": "Jin et al., RAGCache, arXiv 2404.12457, abstract; other models and hardware",
}


def making(
    parametrizer: Parametrizer, documents: Sequence[Document], on_gpu: bool
) -> dict[str, float]:
    """Make the documents' adapters, not kept; return seconds and bytes of one, and peak memory.

    Args:
        parametrizer: writes pairs anew, where it trains on some: that is a part of the cost.
        documents: whose adapters are made.
        on_gpu: memory is that of the GPU.
    """

    def make(batch: Sequence[Document]) -> list[int]:
        return [adapter.stored_bytes for adapter in parametrizer.parametrize(batch)]

    ordered = sorted(documents, key=lambda document: len(document.text))  # less padding
    return _timed(make, ordered, parametrizer.batch_size, on_gpu)


def keeping(answerer: Answerer, documents: Sequence[Document], on_gpu: bool) -> dict[str, float]:
    """Read the passages one by one and, as `making`, keep nothing on the disk; return the same."""
    ids = [document.id for document in documents]
    return _timed(replace(answerer, kept=None).keep_passages, ids, len(ids), on_gpu)


def _timed(
    make: Callable[[Sequence], Sequence[int]], items: Sequence, size: int, on_gpu: bool
) -> dict[str, float]:
    """Call what makes something of items, `size` at a time, and returns the bytes of each."""
    make(items[:1])  # the first call loads kernels
    reset_peak(on_gpu)
    began = time.perf_counter()
    kept = sum(sum(make(items[start : start + size])) for start in range(0, len(items), size))
    seconds = time.perf_counter() - began
    each = {"seconds": seconds / len(items), "bytes": kept / len(items)}
    return each | {"peak_bytes": peak_bytes(on_gpu)}


def first_token(answerer: Answerer, mode: str, questions: Sequence[Question]) -> float:
    """Return the seconds from a question and its gold document to the answer's first token.

    One question at a time, mean over questions; adapters, keys and values come from the disk (its
    cache: they were read before).
    """
    greedy = replace(answerer.generation, max_new_tokens=1, temperature=0.0)
    answerer = replace(answerer, generation=greedy)
    hits = [[Hit(question.gold_ids[0], 1.0)] for question in questions]
    if find_mode(mode).kept:
        answerer.keep_passages([row[0].document_id for row in hits])
    answerer.answer([questions[0].question], hits[:1], mode)  # the first call loads kernels
    began = time.perf_counter()
    for question, row in zip(questions, hits, strict=True):
        answerer.answer([question.question], [row], mode)
    return (time.perf_counter() - began) / len(questions)


def cost(measured: Mapping[str, Mapping], cells: Cells) -> dict:
    """Return the `cost` part.

    Args:
        measured: adapters: what `making` returned, by path; kv_cache: what `keeping` did;
            first_token: seconds by condition.
        cells: seconds a question are those of its answers, in batches, with loading and merging.

    Returns:
        What was measured; questions: seconds of each condition; break_even: path -> questions a
        document after which answering with its adapter, not from the prompt, has paid for making it
        (None: never), where both were asked; break_even_kv_cache: the same, not from the passage's
        kept keys and values, which are made as well; published: of others' engines.
    """
    questions = {
        name: sum(record["seconds"] for record in records.values()) / len(records)
        for name, records in cells.answers.items()
    }  # condition -> seconds
    even = {}
    for other, made in (("in_context", 0.0), ("kv_cache", measured["kv_cache"]["seconds"])):
        even[other] = {
            path: _break_even(each["seconds"] - made, questions[other] - questions[name])
            for path, each in measured["adapters"].items()
            if other in questions and (name := f"{path}/parametric") in questions
        }
    return {
        **measured,
        "questions": questions,
        "break_even": even["in_context"],
        "break_even_kv_cache": even["kv_cache"],
        "published": PUBLISHED,
    }


def _break_even(dearer: float, saved: float) -> float | None:
    """Return after how many questions that save so many seconds each what is dearer is paid for."""
    if dearer <= 0 <= saved:
        return 0.0
    return max(dearer, 0.0) / saved if saved > 0 else None


def reset_peak(on_gpu: bool) -> None:
    """Forget the peak memory seen so far, where the system can (CUDA, Linux)."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):  # refused in some containers: the peak is then the whole run's
            Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)


def peak_bytes(on_gpu: bool) -> int:
    """Return the peak since `reset_peak`: of CUDA memory, else resident (the base model's too)."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the kernel's high-water mark
    return peak if sys.platform == "darwin" else 1024 * peak  # kB but on macOS
