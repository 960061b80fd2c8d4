"""Cost: what an adapter and a question cost on each path, and when the adapter pays."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from prag_core.adapters.adapter import Parametrizer
from prag_core.corpus.documents import Document
from prag_core.evaluation.compare.cells import Cells

CLEAR_PEAK = "5"  # proc(5): resets the peak resident set size


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


def cost(adapters: Mapping[str, Mapping], cells: Cells) -> dict:
    """Return the `cost` part.

    Args:
        adapters: what `making` returned, by path.
        cells: seconds a question are those of its answers, in batches, with loading and merging.

    Returns:
        adapters; questions: seconds of each condition; break_even: path -> questions a document
        after which answering with its adapter, not from the prompt, has paid for making it (None:
        never), where both were asked.
    """
    questions = {
        name: sum(record["seconds"] for record in records.values()) / len(records)
        for name, records in cells.answers.items()
    }  # condition -> seconds
    break_even: dict[str, float | None] = {}
    for path, each in adapters.items():
        if f"{path}/parametric" in questions and "in_context" in questions:
            saved = questions["in_context"] - questions[f"{path}/parametric"]
            # Every answer saves so many seconds; after n of them the adapter is paid for.
            break_even[path] = each["seconds"] / saved if saved > 0 else None
    return {"adapters": dict(adapters), "questions": questions, "break_even": break_even}


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
