"""Merge: adapters of several documents go in, one adapter comes out.

Pure functions of adapters, no model is needed. Plain LoRAs are summed exactly, by concatenation of
ranks. Ridge memories are solved again over all their keys (see `ridge_memory`), so that one
document's tokens do not answer for another's. Rows that all adapters share are counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prag_core.adapters.adapter import Adapter, AdapterSpec
from prag_core.adapters.names import METHODS, WEIGHTINGS
from prag_core.adapters.ridge_memory import RidgeMemory, Rows, require_one_network, solve_together


def merge_weights(weighting: str, scores: Sequence[float]) -> list[float]:
    """Return one merge weight a document.

    Args:
        weighting: `ones` (Su et al., 2025: adapters are summed), `mean` (1 / k each), `score` (k
            times the share of the retrieval score, so that the weights sum to k), or `relative`
            (the share of the best score, so that the best document weighs 1 whatever k is). The
            last two are 1 each where no score is positive.
        scores: retrieval score of each document.

    Raises:
        ValueError: an unknown weighting.
    """
    count = len(scores)
    if weighting == "ones":
        return [1.0] * count
    if weighting == "mean":
        return [1.0 / max(count, 1)] * count
    if weighting in ("score", "relative"):
        positive = [max(score, 0.0) for score in scores]
        unit = sum(positive) / max(count, 1) if weighting == "score" else max(positive, default=0.0)
        return [s / unit for s in positive] if unit > 0 else [1.0] * count
    raise ValueError(f"got merge weighting {weighting!r}, expected one of {list(WEIGHTINGS)}")


def merge(
    adapters: Sequence[Adapter], weights: Sequence[float] | None = None, method: str = "auto"
) -> Adapter:
    """Merge adapters into one of scale 1 (alpha = rank); weight and scale are folded into B.

    `concatenate` is the exact sum, dW = sum_j w_j * scale_j * B_j A_j. `auto` is the same for plain
    LoRAs; shared rows are counted once, and ridge memories are solved again together, by weighted
    least squares (see `ridge_memory.solve_together`).

    Args:
        adapters: adapters of one base model, modules and layers; ranks and alphas may differ.
        weights: one weight an adapter; all 1 when omitted. The shared rows weigh 1.
        method: `auto` or `concatenate`.

    Raises:
        ValueError: nothing to merge, another base model, modules or layers, a wrong count of
            weights, an unknown method, ridge memories of different networks, or shared rows that
            are not the same.
    """
    if method not in METHODS:
        raise ValueError(f"got merge method {method!r}, expected one of {list(METHODS)}")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    first = _require_mergeable(adapters, weights)
    factors = [w * adapter.spec.scale for w, adapter in zip(weights, adapters, strict=True)]
    # Alone and whole: nothing to weigh. Shared rows weigh 1, whatever their adapter does.
    if factors == [1.0] and (weights == [1.0] or method != "auto" or not adapters[0].shared_rows):
        rank = adapters[0].rank
        return replace(adapters[0], spec=replace(first, rank=rank, alpha=rank))
    memory, shared = None, 0
    if method == "auto" and any(adapter.memory or adapter.shared_rows for adapter in adapters):
        tensors, memory, shared = _join_memories(adapters, weights)
    else:
        tensors = {path: _concatenate(adapters, factors, path) for path in first.paths()}
    rank = max(a.shape[0] for a, _ in tensors.values())
    spec = replace(first, rank=rank, alpha=rank)
    # What is true of all is true of their sum (the prompt; of Gemma, where its output is added).
    metadata = {
        key: value
        for key, value in adapters[0].metadata.items()
        if all(adapter.metadata.get(key) == value for adapter in adapters)
    }
    identifiers = [adapter.metadata.get("document_id", "") for adapter in adapters]
    metadata["document_id"] = "+".join(identifiers)
    return Adapter(spec, tensors, metadata, memory, shared)


def weigh_rows(adapter: Adapter, weights: Tensor) -> Adapter:
    """Solve a ridge memory again, with a weight for each of its rows.

    Weighted least squares, as a merge weighs documents: a token of small weight also claims less of
    what the others address. The shared rows stay as they are.

    Args:
        adapter: of a document, with its memory.
        weights: of its R own rows, (R,), on any device.

    Raises:
        ValueError: an adapter without memory, or another number of weights.
    """
    memory = adapter.memory
    rows = 0 if memory is None else memory.gram.shape[1]
    if memory is None or weights.shape != (rows,):
        raise ValueError(
            f"got weights {tuple(weights.shape)} and a memory of {rows} rows, expected one weight "
            "a row: leave adapters without memory as they are"
        )
    weights = weights.to(memory.gram.device)
    tensors, solved = {}, []
    for module, path in enumerate(adapter.tensors):
        (a, b), (shared_a, shared_b) = adapter.split(path)
        keys = memory.keys(a, module) * weights[:, None]  # (R, I or I + k)
        own = memory.solve(keys, module).to(a.dtype)  # (R, I)
        tensors[path] = torch.cat([own, shared_a]), torch.cat([b * weights.to(b), shared_b], 1)
        solved.append(keys)
    again = RidgeMemory.from_keys(torch.stack(solved), memory.whitening, memory.ridge)
    return replace(adapter, tensors=tensors, memory=again)


def mean_adapter(adapters: Iterable[Adapter]) -> Adapter:
    """Return the mean update of many adapters, read one by one, as one adapter of full rank.

    A control: what all documents' adapters have in common is no document's knowledge.

    Raises:
        ValueError: no adapters, or another base model, modules or layers.
    """
    total: dict[str, Tensor] = {}
    first, count, made = None, 0, {}
    for adapter in adapters:
        if first is None:
            first = adapter.spec
            # Whose prompt the mean is asked in, too.
            made = {n: adapter.metadata[n] for n in ("prompt", "path") if n in adapter.metadata}
        _require_fit(adapter.spec, first)
        for path in first.paths():
            a, b = adapter.tensors[path]
            update = adapter.spec.scale * (b.float() @ a.float())  # (O, I)
            total[path] = update if count == 0 else total[path].add_(update)
        count += 1
    if first is None:
        raise ValueError("got no adapters, expected at least one for their mean")
    tensors = {}
    for path, update in total.items():
        mean = (update / count).to(first.torch_dtype)
        outputs, inputs = mean.shape
        eye = torch.eye(min(outputs, inputs), dtype=mean.dtype, device=mean.device)
        tensors[path] = (mean, eye) if outputs <= inputs else (eye, mean)  # A (R, I), B (O, R)
    rank = max(a.shape[0] for a, _ in tensors.values())
    return Adapter(replace(first, rank=rank, alpha=rank), tensors, made | {"document_id": "mean"})


def _require_mergeable(adapters: Sequence[Adapter], weights: Sequence[float]) -> AdapterSpec:
    """Return the first spec; raise ValueError unless the others fit it, each with a weight."""
    if not adapters:
        raise ValueError("got no adapters, expected at least one to merge: retrieve k >= 1")
    if len(weights) != len(adapters):
        raise ValueError(f"got {len(weights)} weights, expected {len(adapters)}, one an adapter")
    first = adapters[0].spec
    for adapter in adapters[1:]:
        _require_fit(adapter.spec, first)
    return first


def _require_fit(spec: AdapterSpec, first: AdapterSpec) -> None:
    """Raise ValueError for an adapter of another base model, modules or layers than the first."""
    spec.require_base(first.base_model)
    if (spec.modules, spec.layers) != (first.modules, first.layers):
        raise ValueError(
            f"got an adapter of modules {spec.modules} in layers {spec.layers}, expected "
            f"{first.modules} in {first.layers}: merge adapters of one parametrizer"
        )


def _require_one_format(adapters: Sequence[Adapter]) -> Adapter:
    """Return an adapter whose shared rows stand for those of all; ValueError where they differ."""
    sharing = [adapter for adapter in adapters if adapter.shared_rows]
    if not sharing:
        return adapters[0]
    path = sharing[0].spec.paths()[0]  # one module tells
    first, *others = (_response(adapter, path) for adapter in sharing)
    # Not bit by bit: a smaller rank's rows may be another basis of the same update.
    if any((other - first).norm() > 0.05 * first.norm() for other in others):
        raise ValueError(
            "got adapters whose shared rows differ, expected those of one parametrizer, which a "
            "merge counts once: parametrize all documents from one start (training.init), or with "
            "one checkpoint"
        )
    return sharing[0]


def _response(adapter: Adapter, path: str) -> Tensor:
    """Return what the shared rows of a module add for an input of ones, (O,)."""
    a, b = adapter.split(path)[1]
    return adapter.spec.scale * b.float() @ a.float().sum(1)


def _concatenate(adapters: Sequence[Adapter], factors: Sequence[float], path: str) -> Rows:
    """Return A (sum R, I) and B (O, sum R) of a module: B A is the weighted sum of the B_j A_j."""
    pairs = [adapter.tensors[path] for adapter in adapters]
    a = torch.cat([a for a, _ in pairs])  # (sum R, I)
    if len(set(factors)) == 1:  # the common case: one multiplication a module, in place
        return a, torch.cat([b for _, b in pairs], 1).mul_(factors[0])  # (O, sum R)
    columns = [b * factor for (_, b), factor in zip(pairs, factors, strict=True)]
    return a, torch.cat(columns, 1)  # (O, sum R)


def _join_memories(
    adapters: Sequence[Adapter], weights: Sequence[float]
) -> tuple[dict[str, Rows], RidgeMemory | None, int]:
    """Solve the memories together, and add the shared rows once.

    Returns:
        A and B by module, the joint memory where it can be solved again, and the shared rows.
    """
    memories = [adapter.memory for adapter in adapters]
    present = [memory for memory in memories if memory is not None]
    require_one_network(present)
    sharing = _require_one_format(adapters)
    tensors: dict[str, Rows] = {}
    solved: list[Tensor] = []  # keys by module, each (sum R, I or I + k)
    for module, path in enumerate(adapters[0].spec.paths()):
        rows = []
        for adapter, weight in zip(adapters, weights, strict=True):
            a, b = adapter.split(path)[0]
            rows.append((a, b * weight * adapter.spec.scale))  # (R, I), (O, R)
        (a, b), keys = solve_together(rows, memories, weights, module)
        if keys is not None:
            solved.append(keys)
        shared_a, shared_b = sharing.split(path)[1]  # (shared, I), (O, shared)
        shared_b = shared_b * sharing.spec.scale
        tensors[path] = torch.cat([a, shared_a]), torch.cat([b, shared_b], 1)
    memory = None
    if len(solved) == len(tensors):
        keys = torch.stack(solved)  # (L, sum R, I or I + k)
        memory = RidgeMemory.from_keys(keys, present[0].whitening, present[0].ridge)
    return tensors, memory, sharing.shared_rows
