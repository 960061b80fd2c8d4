"""Merge: adapters of several documents go in, one adapter with the exact sum comes out.

Pure functions of adapters: no model is needed and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from prag_core.adapter import Adapter

WEIGHTINGS = ("ones", "mean", "score")


def merge_weights(weighting: str, scores: Sequence[float]) -> list[float]:
    """Return one merge weight a document.

    Args:
        weighting: `ones` (Su et al., 2025: adapters are summed), `mean` (1 / k each), or `score`
            (k times the softmax-free share of the retrieval score, so that the weights sum to
            k; equal where no score is positive).
        scores: retrieval score of each document.

    Raises:
        ValueError: an unknown weighting.
    """
    count = len(scores)
    if weighting == "ones":
        return [1.0] * count
    if weighting == "mean":
        return [1.0 / count] * count
    if weighting == "score":
        positive = [max(score, 0.0) for score in scores]
        total = sum(positive)
        return [count * s / total for s in positive] if total > 0 else [1.0] * count
    raise ValueError(f"got merge weighting {weighting!r}, expected one of {list(WEIGHTINGS)}")


def merge(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> Adapter:
    """Sum adapters exactly by rank concatenation: dW = sum_j w_j * scale_j * B_j A_j.

    Scale and weight are folded into B; the merged adapter has scale 1 (alpha = rank).

    Args:
        adapters: adapters of one base model, modules and layers; ranks and alphas may differ.
        weights: one weight an adapter; all 1 when omitted.

    Raises:
        ValueError: nothing to merge, another base model, modules or layers, or a wrong count of
            weights.
    """
    if not adapters:
        raise ValueError("got no adapters, expected at least one to merge: retrieve k >= 1")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"got {len(weights)} weights, expected {len(adapters)}, one an adapter")
    first = adapters[0].spec
    for adapter in adapters[1:]:
        adapter.spec.require_base(first.base_model)
        if adapter.spec.paths() != first.paths():
            raise ValueError(
                f"got an adapter of modules {adapter.spec.modules} in layers "
                f"{adapter.spec.layers}, expected {first.modules} in {first.layers}: "
                "merge adapters of one parametrizer"
            )
    tensors = {}
    for path in first.paths():
        pairs = [adapter.tensors[path] for adapter in adapters]
        a = torch.cat([a for a, _ in pairs])  # (sum R, I)
        factors = [w * adapter.spec.scale for w, adapter in zip(weights, adapters, strict=True)]
        b = torch.cat([b * f for (_, b), f in zip(pairs, factors, strict=True)], 1)  # (O, sum R)
        tensors[path] = (a, b)
    rank = max(a.shape[0] for a, _ in tensors.values())
    spec = replace(first, rank=rank, alpha=rank)
    identifiers = [adapter.metadata.get("document_id", "") for adapter in adapters]
    return Adapter(spec, tensors, {"document_id": "+".join(identifiers)})
