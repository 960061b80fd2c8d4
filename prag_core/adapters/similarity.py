"""Similarity: adapters of many documents go in; norms, cosines of dW and a map come out.

No update dW = scale * B A is built. A norm is exact: ||B A||^2 = tr(B'B A A'). Cosines are taken
between sketches: with P (O, S) and Q (I, S) of independent normal entries of variance 1 / S, the
matrix P' B A Q (S, S) of a module keeps inner products in expectation (Johnson and Lindenstrauss,
1984, from both sides), and those of several modules add up. So a thousand adapters of rank 160 are
compared in seconds; `inner_product` is the exact value for two.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prag_core.adapters.adapter import Adapter

SKETCH = 128  # S; the error falls with 1 / S, with its root where adapters share their A
COMPARED = 2000  # documents whose pairs are compared, at most
CHECKED = 8  # documents whose cosines are computed exactly too


def inner_product(one: Adapter, other: Adapter) -> float:
    """Return <dW, dW'> over the modules that both adapt, from the factors."""
    paths = one.tensors.keys() & other.tensors.keys()
    return sum(_module_product(one, other, path) for path in paths)


def update_norms(adapter: Adapter) -> list[dict[str, Any]]:
    """Return {layer, module, norm}, the Frobenius norm of every update."""
    norms = []
    for path in adapter.spec.paths():
        _, _, layer, _, module = path.split(".")  # model.layers.{layer}.mlp.{module}
        norm = max(_module_product(adapter, adapter, path), 0.0) ** 0.5
        norms.append({"layer": int(layer), "module": module, "norm": round(norm, 4)})
    return norms


def _module_product(one: Adapter, other: Adapter, path: str) -> float:
    """Return <dW, dW'> = scale scale' tr(B'D C A') of a module: nothing of size (O, I) is built."""
    (a, b), (c, d) = ((x.float() for x in adapter.tensors[path]) for adapter in (one, other))
    return one.spec.scale * other.spec.scale * float(((b.mT @ d) * (a @ c.mT)).sum())


class Sketcher:
    """Maps adapters to vectors whose inner products are those of the updates, nearly."""

    def __init__(self, size: int = SKETCH) -> None:
        """Choose S; a sketch has S * S numbers."""
        self.size = size
        self.sides: dict[tuple[str, str, int], Tensor] = {}

    def __call__(self, adapter: Adapter) -> Tensor:
        """Return the sketch (S * S,) of an adapter."""
        total = torch.zeros(self.size, self.size)
        for path, (a, b) in adapter.tensors.items():
            left = self._side(path, "out", b.shape[0])  # (O, S)
            right = self._side(path, "in", a.shape[1])  # (I, S)
            total += (left.mT @ b.cpu().float()) @ (a.cpu().float() @ right)
        return adapter.spec.scale * total.flatten()

    def _side(self, path: str, side: str, count: int) -> Tensor:
        key = (path, side, count)
        if key not in self.sides:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{path} {side}".encode()))
            draws = torch.randn(count, self.size, generator=generator)
            self.sides[key] = draws / self.size**0.5
        return self.sides[key]


@dataclass(frozen=True)
class Summary:
    """What is kept of one path's adapters.

    Attributes:
        sketches: (N, S * S).
        norms: mean norm of the updates by (module, layer).
        checked: the first adapters, for exact cosines.
    """

    sketches: Tensor
    norms: Mapping[tuple[str, int], float]
    checked: Sequence[Adapter]


def summarise(adapters: Iterable[Adapter], sketcher: Sketcher) -> Summary:
    """Read the adapters one by one.

    Raises:
        ValueError: no adapters.
    """
    sketches: list[Tensor] = []
    norms: dict[tuple[str, int], list[float]] = {}
    checked: list[Adapter] = []
    for adapter in adapters:
        sketches.append(sketcher(adapter))
        for entry in update_norms(adapter):
            norms.setdefault((entry["module"], entry["layer"]), []).append(entry["norm"])
        if len(checked) < CHECKED:
            checked.append(adapter)
    if not sketches:
        raise ValueError("got no adapters, expected at least one to compare: parametrize first")
    means = {place: float(np.mean(values)) for place, values in norms.items()}
    return Summary(torch.stack(sketches), means, checked)


def compare_adapters(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """Return the `similarity` part of a comparison.

    Args:
        summaries: of every path, over the same documents in the same order.

    Returns:
        within: cosines of different documents of a path (mean, 5th and 95th percentile); between:
        of the paths' adapters of the same and of different documents; norms by module and layer;
        map: two coordinates a document; variance: share of the squared distances that they show;
        error: largest deviation of a cosine from the exact one.
    """
    units = {path: normalize(summary.sketches, eps=1e-12) for path, summary in summaries.items()}
    part: dict[str, Any] = {"within": {}, "norms": {}, "map": [], "variance": {}}
    for path, unit in units.items():
        if len(unit) > 1:
            cosines = unit[:COMPARED] @ unit[:COMPARED].mT
            part["within"][path] = _spread(cosines[_off_diagonal(cosines)])
        part["norms"][path] = _norm_table(summaries[path].norms)
        points, part["variance"][path] = _map(unit)
        part["map"] += [
            {"document": i, "path": path, "x": x, "y": y} for i, (x, y) in enumerate(points)
        ]
    if len(units) == 2:
        part["between"] = _between(*(unit[:COMPARED] for unit in units.values()))
    part["error"] = max(_deviation(summaries[path], unit) for path, unit in units.items())
    return part


def _off_diagonal(square: Tensor) -> Tensor:
    return ~torch.eye(len(square), dtype=torch.bool)


def _spread(cosines: Tensor) -> dict[str, float]:
    values = cosines.numpy()
    low, high = np.quantile(values, [0.05, 0.95])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _between(one: Tensor, other: Tensor) -> dict[str, dict[str, float]]:
    cosines = one @ other.mT
    between = {"same document": _spread(cosines.diagonal())}
    if len(cosines) > 1:
        between["different documents"] = _spread(cosines[_off_diagonal(cosines)])
    return between


def _norm_table(norms: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    modules = list(dict.fromkeys(module for module, _ in norms))
    layers = sorted({layer for _, layer in norms})
    values = [[norms[module, layer] for layer in layers] for module in modules]
    return {"layers": layers, "modules": modules, "values": values}


def _map(unit: Tensor) -> tuple[list[tuple[float, float]], float]:
    """Place the adapters in the plane by classical scaling of their cosines (Torgerson, 1952)."""
    centred = unit - unit.mean(0)
    whole = float(centred.square().sum())
    if len(unit) < 3 or whole < 1e-9:
        return [(0.0, 0.0)] * len(unit), 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, strength, _ = torch.svd_lowrank(centred, q=min(8, len(unit)), niter=4)
    points = left[:, :2] * strength[:2]  # (N, 2)
    share = float(strength[:2].square().sum()) / whole
    return [(float(x), float(y)) for x, y in points], share


def _deviation(summary: Summary, unit: Tensor) -> float:
    """Return the largest |sketched - exact| cosine among the checked adapters."""
    adapters = summary.checked
    exact = torch.tensor([[inner_product(a, b) for b in adapters] for a in adapters])
    norms = exact.diagonal().clamp(min=1e-12).sqrt()
    sketched = unit[: len(adapters)] @ unit[: len(adapters)].mT
    return float((sketched - exact / norms[:, None] / norms).abs().max())
