"""Merge: adapters of several documents go in, one adapter comes out.

Pure functions of adapters, no model is needed. The default is the exact sum (concatenation of
ranks). Adapters that carry what a ridge memory was solved from (`Adapter.extra`: gram, whitening,
ridge, shared_rows, and `beside` where the network has a background) are solved again over all
their keys, so that one document's tokens do not answer for another's; rows that they share are
counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from prag_core.adapters.adapter import DTYPES, Adapter
from prag_core.adapters.ridge import recover_keys, solve_product, solve_rows

Tensors = dict[str, tuple[Tensor, Tensor]]
Pairs = Sequence[tuple[Tensor, Tensor]]
METHODS = ("auto", "concatenate")
WEIGHTINGS = ("ones", "mean", "score", "relative")


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
        unit = sum(positive) / count if weighting == "score" else max(positive, default=0.0)
        return [s / unit for s in positive] if unit > 0 else [1.0] * count
    raise ValueError(f"got merge weighting {weighting!r}, expected one of {list(WEIGHTINGS)}")


def merge(
    adapters: Sequence[Adapter], weights: Sequence[float] | None = None, method: str = "auto"
) -> Adapter:
    """Merge adapters into one of scale 1 (alpha = rank); weight and scale are folded into B.

    `concatenate` is the exact sum, dW = sum_j w_j * scale_j * B_j A_j. `auto` is the same for
    adapters without extra tensors; those of ridge memories are solved again together, by weighted
    least squares: a document's keys and values are multiplied by its weight, so that a document of
    small weight also claims less of what the others' tokens address.

    Args:
        adapters: adapters of one base model, modules and layers; ranks and alphas may differ.
        weights: one weight an adapter; all 1 when omitted.
        method: `auto` or `concatenate`.

    Raises:
        ValueError: nothing to merge, another base model, modules or layers, a wrong count of
            weights, an unknown method, or ridge memories of different networks.
    """
    if not adapters:
        raise ValueError("got no adapters, expected at least one to merge: retrieve k >= 1")
    if method not in METHODS:
        raise ValueError(f"got merge method {method!r}, expected one of {list(METHODS)}")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"got {len(weights)} weights, expected {len(adapters)}, one an adapter")
    first = adapters[0].spec
    for adapter in adapters[1:]:
        adapter.spec.require_base(first.base_model)
        if (adapter.spec.modules, adapter.spec.layers) != (first.modules, first.layers):
            raise ValueError(
                f"got an adapter of modules {adapter.spec.modules} in layers "
                f"{adapter.spec.layers}, expected {first.modules} in {first.layers}: "
                "merge adapters of one parametrizer"
            )
    factors = [w * adapter.spec.scale for w, adapter in zip(weights, adapters, strict=True)]
    if factors == [1.0]:
        rank = adapters[0].rank
        return replace(adapters[0], spec=replace(first, rank=rank, alpha=rank))
    if method == "auto" and any("shared_rows" in adapter.extra for adapter in adapters):
        tensors, extra = _solve_again(adapters, weights)
    else:
        tensors, extra = _concatenate(adapters, factors), {}
    rank = max(a.shape[0] for a, _ in tensors.values())
    spec = replace(first, rank=rank, alpha=rank)
    identifiers = [adapter.metadata.get("document_id", "") for adapter in adapters]
    return Adapter(spec, tensors, {"document_id": "+".join(identifiers)}, extra)


def mean_adapter(adapters: Iterable[Adapter]) -> Adapter:
    """Return the mean update of many adapters, read one by one, as one adapter of full rank.

    A control: what all documents' adapters have in common is no document's knowledge.

    Raises:
        ValueError: no adapters, or another base model, modules or layers.
    """
    total: dict[str, Tensor] = {}
    first, count = None, 0
    for adapter in adapters:
        first = first or adapter.spec
        adapter.spec.require_base(first.base_model)
        for path in first.paths():
            a, b = adapter.tensors[path]
            update = adapter.spec.scale * (b.float() @ a.float())  # (O, I)
            total[path] = update if count == 0 else total[path].add_(update)
        count += 1
    if first is None:
        raise ValueError("got no adapters, expected at least one for their mean")
    tensors = {}
    for path, update in total.items():
        mean = (update / count).to(DTYPES[first.dtype])
        outputs, inputs = mean.shape
        eye = torch.eye(min(outputs, inputs), dtype=mean.dtype, device=mean.device)
        tensors[path] = (mean, eye) if outputs <= inputs else (eye, mean)  # A (R, I), B (O, R)
    rank = max(a.shape[0] for a, _ in tensors.values())
    return Adapter(replace(first, rank=rank, alpha=rank), tensors, {"document_id": "mean"})


def _concatenate(adapters: Sequence[Adapter], factors: Sequence[float]) -> Tensors:
    paths = adapters[0].spec.paths()
    columns = [[adapter.tensors[path][1] for path in paths] for adapter in adapters]
    equal = len(set(factors)) == 1
    if not equal:
        columns = [torch._foreach_mul(*pair) for pair in zip(columns, factors, strict=True)]
    b = [torch.cat(row, 1) for row in zip(*columns, strict=True)]  # each (O, sum R)
    if equal:  # scaled together: one multiplication a module, not one a module and adapter
        b = torch._foreach_mul(b, factors[0])
    a = [torch.cat([adapter.tensors[path][0] for adapter in adapters]) for path in paths]
    return dict(zip(paths, zip(a, b, strict=True), strict=True))  # a (sum R, I)


def _solve_again(
    adapters: Sequence[Adapter], weights: Sequence[float]
) -> tuple[Tensors, dict[str, Tensor]]:
    """Solve the ridge memories jointly; other rows are concatenated, shared rows come once.

    More rows than outputs O are written as the O rows of their exact product; such an adapter
    cannot be solved again.
    """
    solvable = [adapter for adapter in adapters if "gram" in adapter.extra]
    for adapter in solvable[1:]:
        for name in ("whitening", "ridge"):
            if not torch.equal(adapter.extra[name], solvable[0].extra[name]):
                raise ValueError(
                    f"got adapters that differ in {name}, expected adapters of one network: "
                    "parametrize all documents with one checkpoint"
                )
    tensors, solved = {}, []
    for index, path in enumerate(adapters[0].spec.paths()):
        shared = next(_split(adapter, path)[1] for adapter in adapters if _shared(adapter))
        rows = [_split(adapter, path)[0] for adapter in adapters]
        joint = _stacked_keys(adapters, rows, weights, index)
        rows = [
            (a, b * weight * adapter.spec.scale)
            for (a, b), weight, adapter in zip(rows, weights, adapters, strict=True)
        ]
        if sum(len(a) for a, _ in rows) > rows[0][1].shape[0]:
            a, b = _joint_product(rows, joint)
            solved.append(None)
        else:
            a, b = _joint_rows(rows, joint)
            solved.append(joint.keys if len(joint.places) == len(rows) else None)
        tensors[path] = (torch.cat([a, shared[0]]), torch.cat([b, shared[1]], 1))
    extra = {"shared_rows": torch.tensor([shared[0].shape[0]])}
    if all(keys is not None for keys in solved):
        extra["gram"] = torch.stack([keys @ keys.mT for keys in solved]).half()
        extra |= {name: solvable[0].extra[name] for name in ("whitening", "ridge")}
        if "beside" in solvable[0].extra:
            extra["beside"] = torch.stack([k[:, rows[0][0].shape[1] :] for k in solved]).half()
    return tensors, extra


class _Joint(NamedTuple):
    """What adapters are solved again from: their places, keys stacked, whitening and lambda."""

    places: list[int]
    keys: Tensor | None = None
    scale: Tensor | None = None
    strength: Tensor | None = None


def _joint_rows(rows: Pairs, joint: _Joint) -> tuple[Tensor, Tensor]:
    """Return A (sum R, I) and B (O, sum R) of a module; rows without keys stay as they are."""
    solved = [a for a, _ in rows]
    if len(joint.places) > 1:
        again = solve_rows(joint.keys, joint.strength)[0][:, : len(joint.scale)] * joint.scale
        again = again.to(solved[0].dtype)
        pieces = again.split([len(solved[place]) for place in joint.places])
        for place, piece in zip(joint.places, pieces, strict=True):
            solved[place] = piece
    return torch.cat(solved), torch.cat([b for _, b in rows], 1)


def _joint_product(rows: Pairs, joint: _Joint) -> tuple[Tensor, Tensor]:
    """Return the exact update as A (O, I) and B, the identity."""
    product = sum(
        (b.float() @ a.float() for n, (a, b) in enumerate(rows) if n not in joint.places),
        start=torch.zeros((), device=rows[0][0].device),
    )
    if joint.places:
        values = torch.cat([rows[place][1].float() for place in joint.places], 1)
        solution = solve_product(values, joint.keys, joint.strength)[:, : len(joint.scale)]
        product = product + solution * joint.scale
    a = product.to(rows[0][0].dtype)
    return a, torch.eye(len(a), dtype=a.dtype, device=a.device)


def _stacked_keys(
    adapters: Sequence[Adapter], rows: Pairs, weights: Sequence[float], index: int
) -> _Joint:
    """Collect the adapters that can be solved again.

    Keys are multiplied by the size of the weight where there are several to solve together.
    """
    places = [n for n, adapter in enumerate(adapters) if "gram" in adapter.extra]
    if not places:
        return _Joint([])
    first = adapters[places[0]].extra
    scale = first["whitening"][index].float() / rows[0][0].shape[1] ** 0.5  # (I,)
    strength = first["ridge"][index].float()
    keys = [
        _solved_keys(rows[n][0].float() / scale, adapters[n].extra, index, strength) for n in places
    ]
    if len(places) > 1:
        keys = [key * abs(weights[n]) for n, key in zip(places, keys, strict=True)]
    return _Joint(places, torch.cat(keys), scale, strength)


def _solved_keys(rows: Tensor, extra: Mapping[str, Tensor], index: int, strength: Tensor) -> Tensor:
    """Return what rows A^ were solved over: their keys, and the columns beside them."""
    keys = recover_keys(rows, extra["gram"][index].float(), strength)
    return torch.cat([keys, extra["beside"][index].float()], 1) if "beside" in extra else keys


def _shared(adapter: Adapter) -> int:
    return int(adapter.extra["shared_rows"]) if "shared_rows" in adapter.extra else 0


def _split(adapter: Adapter, path: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Part a module's rows into the document's own and the shared ones (the last)."""
    a, b = adapter.tensors[path]
    own = a.shape[0] - _shared(adapter)
    return (a[:own], b[:, :own]), (a[own:], b[:, own:] * adapter.spec.scale)
