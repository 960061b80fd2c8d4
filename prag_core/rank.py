"""Rank: an adapter goes in, one of smaller rank whose update answers alike comes out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prag_core.adapter import Adapter


def reduce_rank(adapter: Adapter, rank: int) -> Adapter:
    """Return the adapter with at most `rank` rows a module.

    Of a ridge memory (it carries the Gram matrix of its keys K) the responses to its own keys are
    kept as well as that rank allows: with Y = B A K' = U S V', the update U_r U_r' B A is the
    nearest of rank r (reduced-rank regression, Izenman, 1975). Tokens with like values so share a
    row, and none is dropped. The rows that all documents share are kept as they are. The keys are
    gone afterwards: in a merge such an adapter is summed, not solved again. Of any other adapter
    dW is truncated (Eckart and Young, 1936).

    Raises:
        ValueError: no more rows than the shared ones.
    """
    shared = int(adapter.extra["shared_rows"]) if "shared_rows" in adapter.extra else 0
    own_rank = rank_of_own(rank, shared)
    if adapter.rank <= rank:
        return adapter
    tensors = {}
    for index, (path, (a, b)) in enumerate(adapter.tensors.items()):
        own = a.shape[0] - shared
        rows, columns = a[:own].float(), b[:, :own].float()  # (R, I), (O, R)
        if "gram" in adapter.extra:
            gram, strength = (adapter.extra[name][index].float() for name in ("gram", "ridge"))
            rows, columns = _by_response(rows, columns, gram, strength, own_rank)
        else:
            rows, columns = _truncated(rows, columns, own_rank)
        rows, columns = rows.to(a.dtype), columns.to(b.dtype)
        tensors[path] = (torch.cat([rows, a[own:]]), torch.cat([columns, b[:, own:]], 1))
    ratio = adapter.spec.scale  # unchanged: alpha / rank of the new spec
    spec = replace(adapter.spec, rank=rank, alpha=ratio * rank)
    extra = {name: adapter.extra[name] for name in ("shared_rows",) if name in adapter.extra}
    return replace(adapter, spec=spec, tensors=tensors, extra=extra)


def rank_of_own(rank: int, shared: int) -> int:
    """Return what a budget leaves for the document's own rows; ValueError where that is nothing."""
    if rank <= shared:
        raise ValueError(
            f"got rank {rank}, expected more than the {shared} rows that all documents share"
        )
    return rank - shared


def _by_response(
    a: Tensor, b: Tensor, gram: Tensor, strength: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Return U_r' B A (r, I) and U_r (O, r), from the R x R matrix Y'Y."""
    eye = torch.eye(len(gram), device=gram.device)
    factor = torch.linalg.cholesky(gram + strength * eye)
    response = b @ torch.cholesky_solve(gram, factor)  # Y (O, R)
    left = response_directions(response, rank)
    return (left.mT @ b) @ a, left


def response_directions(response: Tensor, rank: int) -> Tensor:
    """Return U_r (..., O, r), the largest left singular directions of Y (..., O, R), R <= O."""
    _, vectors = torch.linalg.eigh(response.mT @ response)
    return torch.linalg.qr(response @ vectors[..., -rank:])[0]  # the largest are last


def project(values: Tensor, a: Tensor, keys: Tensor, rank: int) -> Tensor:
    """Return values (G, L, R, H) without what falls outside the `rank` largest response directions.

    Args:
        values: V, (G, L, R, H).
        a: addresses A, (G, L, R, I).
        keys: K, (G, L, R, I); the responses are V' A K'.
        rank: directions kept.
    """
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        response = values.float().mT @ (a @ keys.float().mT)  # (G, L, H, R)
        left = response_directions(response, rank)  # (G, L, H, r)
    return (values @ left.to(values.dtype)) @ left.mT.to(values.dtype)


def _truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the r largest singular directions of B A, without building it."""
    left, upper = torch.linalg.qr(b)  # (O, R), (R, R)
    right, lower = torch.linalg.qr(a.mT)  # (I, R), (R, R)
    u, s, v = torch.linalg.svd(upper @ lower.mT)
    return (right @ v[:rank].mT).mT, left @ (u[:, :rank] * s[:rank])
