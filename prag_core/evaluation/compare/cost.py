"""Cost: what an adapter and a question cost on each path, and when the adapter pays."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from prag_core.adapters.adapter import Parametrizer
from prag_core.corpus.documents import Document
from prag_core.corpus.questions import Question
from prag_core.evaluation.compare.cells import Cells
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.modes import find_mode
from prag_core.retrieval.retriever import Hit

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
    parametrizer.parametrize(documents[:1])  # the first call loads kernels
    ordered = sorted(documents, key=lambda document: len(document.text))  # less padding
    reset_peak(on_gpu)
    began, size = time.perf_counter(), 0
    for start in range(0, len(ordered), parametrizer.batch_size):
        batch = ordered[start : start + parametrizer.batch_size]
        size += sum(adapter.nbytes for adapter in parametrizer.parametrize(batch))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds / len(ordered),
        "bytes": size / len(ordered),
        "peak_bytes": peak_bytes(on_gpu),
    }


def keeping(answerer: Answerer, documents: Sequence[Document], on_gpu: bool) -> dict[str, float]:
    """Read the passages one by one and, as `making`, keep nothing on the disk; return the same."""
    ids, answerer = [document.id for document in documents], replace(answerer, kept=None)
    answerer.keep_passages(ids[:1])  # the first call loads kernels
    reset_peak(on_gpu)
    began = time.perf_counter()
    size = sum(answerer.keep_passages(ids))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds / len(ids),
        "bytes": size / len(ids),
        "peak_bytes": peak_bytes(on_gpu),
    }


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
