"""Cost: what an adapter and a question cost on each path, and when the adapter pays."""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from prag_core.adapters.adapter import Parametrizer
from prag_core.augmentation.augmented import CachedAugmenter
from prag_core.corpus.documents import Document
from prag_core.pipeline.rag import ParametricRAG

CLEAR_PEAK = "5"  # proc(5): resets the peak resident set size


def cost(
    rags: Mapping[str, ParametricRAG],
    documents: Sequence[Document],
    answers: Mapping[str, Mapping[str, dict]],
) -> dict:
    """Return the `cost` part.

    Adapters are made once more, batch by batch, and not kept; seconds a question are those of the
    answers, in batches, with loading and merging.

    Args:
        rags: the pipelines by path.
        documents: whose adapters are made.
        answers: scored answers by mode and question id; may be empty.
    """
    seconds = {
        mode: sum(row["seconds"] for row in found.values()) / len(found)
        for mode, found in answers.items()
        if found
    }
    part: dict = {"questions": {m: s for m, s in seconds.items() if "/" not in m}}
    for path, rag in rags.items():
        own = {m.split("/")[1]: s for m, s in seconds.items() if m.startswith(f"{path}/")}
        own = {mode: own[mode] for mode in ("parametric", "combine") if mode in own}
        part[path] = measure(rag, documents) | {"question_seconds": own, "break_even": None}
        if "parametric" in own and "in_context" in seconds:
            saved = seconds["in_context"] - own["parametric"]
            part[path]["break_even"] = part[path]["seconds"] / saved if saved > 0 else None
    return part


def measure(rag: ParametricRAG, documents: Sequence[Document]) -> dict:
    """Make the documents' adapters and return seconds and bytes a document, and the peak memory."""
    parametrizer = _without_cache(rag.parametrizer)
    parametrizer.parametrize(documents[:1])  # the first call loads kernels
    ordered = sorted(documents, key=lambda document: len(document.text))
    on_gpu = rag.base.device.type == "cuda"
    reset_peak(on_gpu)
    began, progress, size = time.perf_counter(), [], 0
    for start in range(0, len(ordered), parametrizer.batch_size):
        batch = ordered[start : start + parametrizer.batch_size]
        size += sum(adapter.nbytes for adapter in parametrizer.parametrize(batch))
        progress.append([start + len(batch), round(time.perf_counter() - began, 3)])
    return {
        "seconds": progress[-1][1] / len(ordered),
        "peak_bytes": peak_bytes(on_gpu),
        "bytes": size / len(ordered),
        "progress": progress,
    }


def _without_cache(parametrizer: Parametrizer) -> Parametrizer:
    """Return a parametrizer that augments anew: writing pairs is a part of the cost."""
    augmenter = getattr(parametrizer, "augmenter", None)
    if not isinstance(augmenter, CachedAugmenter):
        return parametrizer
    alike = copy.copy(parametrizer)
    alike.augmenter = augmenter.augmenter
    return alike


def reset_peak(on_gpu: bool) -> None:
    """Forget the peak memory seen so far, where the system can (CUDA, Linux)."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    file = Path("/proc/self/clear_refs")
    if file.exists():
        try:
            file.write_text(CLEAR_PEAK)
        except OSError:  # not allowed in some containers: the peak is then the whole run's
            return


def peak_bytes(on_gpu: bool) -> int:
    """Return the peak since `reset_peak`: of CUDA memory, else resident (the base model's too)."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
