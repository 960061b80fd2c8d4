"""Rank: an adapter goes in, one of smaller rank whose update answers alike comes out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.ridge_memory import RidgeMemory

PASSED_ON = 0.6  # of what a module of a smaller rank leaves out
POST_NORM = "post_norm"  # metadata of an adapter whose base model norms what an FFN writes


def reduce_rank(adapter: Adapter, rank: int, whitening: Tensor | None = None) -> Adapter:
    """Return the adapter with at most `rank` rows a module, of a ridge memory on average.

    Of a ridge memory (with the Gram matrix of its keys K) the responses to its own keys are
    kept as well as that rank allows: with Y = B A K' = U S V', the update U_r U_r' B A is the
    nearest of rank r (reduced-rank regression, Izenman, 1975). Tokens with like values so share a
    row, and none is dropped. The modules share one budget, `rank` times their number (as in
    AdaLoRA, Zhang et al., 2023; see `keep_largest`), and what one leaves out is passed on to the
    next, unless its metadata says `POST_NORM` (see `cut`). Of the rows that all documents share,
    `rank_of_shared` a module are kept, those that answer most to whitened inputs. The keys are gone
    afterwards: in a merge such an adapter is summed, not solved again. Of any other adapter dW is
    truncated module by module (Eckart and Young, 1936), or nothing where it has no more rows. A
    ridge memory that fits keeps its own rows and keys; its shared rows are cut all the same, as a
    merge with a larger one's counts them once.

    Args:
        adapter: of any kind.
        rank: see above.
        whitening: (L, I), of inputs, where a ridge memory was multiplied out and does not tell it.

    Raises:
        ValueError: no row is left for the document.
    """
    shared, memory = adapter.shared_rows, adapter.memory
    own_rank, kept = rank_of_own(rank, shared), rank_of_shared(rank, shared)
    if adapter.rank <= rank and (kept == shared or memory is None):
        return adapter
    fits = adapter.rank - shared <= own_rank
    whitening = memory.whitening if memory is not None else whitening
    split = [adapter.split(path) for path in adapter.tensors]
    own = [(a.float(), b.float()) for (a, b), _ in split]  # L of (R, I), (O, R)
    if fits:
        pass
    elif memory is not None:
        own = _by_response(own, memory, own_rank, POST_NORM not in adapter.metadata)
    else:
        own = [_truncated(a, b, own_rank) for a, b in own]
    tensors = {}
    for module, (path, (a, b)) in enumerate(adapter.tensors.items()):
        rest_a, rest_b = split[module][1]  # (shared, I), (O, shared)
        if kept < shared:
            # A x = (A / w) (w x): what answers most to inputs of one size in all dimensions.
            scale = 1 if whitening is None else whitening[module].float()
            rest_a, rest_b = _truncated(rest_a.float() / scale, rest_b.float(), kept)
            rest_a = rest_a * scale
        whole_a = torch.cat([own[module][0].to(a.dtype), rest_a.to(a.dtype)])  # (r + kept, I)
        whole_b = torch.cat([own[module][1].to(b.dtype), rest_b.to(b.dtype)], 1)  # (O, r + kept)
        tensors[path] = whole_a, whole_b
    spec = replace(adapter.spec, rank=rank, alpha=adapter.spec.scale * rank)  # the same scale
    memory = memory if fits else None
    return replace(adapter, spec=spec, tensors=tensors, memory=memory, shared_rows=kept)


def rank_of_shared(rank: int, shared: int) -> int:
    """Return how many of the shared rows a budget keeps: a sixteenth of it, at least one."""
    return min(shared, max(1, rank // 16))


def rank_of_own(rank: int, shared: int) -> int:
    """Return what a budget leaves for the document's own rows; ValueError where that is nothing."""
    own = rank - rank_of_shared(rank, shared)
    if own < 1:
        raise ValueError(
            f"got rank {rank}, expected {rank - own + 1} or more: a row for the document, beside "
            f"those kept of the {shared} that all documents share"
        )
    return own


def _by_response(
    pairs: list[tuple[Tensor, Tensor]], memory: RidgeMemory, rank: int, feedback: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return every module's rows (r, I) and directions (O, r), `rank` the mean of all r."""
    values = torch.stack([b.mT for _, b in pairs])  # (L, R, O)
    answers = torch.stack([memory.answers(module) for module in range(len(pairs))])  # (L, R, R)
    kept = []
    for (a, _), (v, left, growth) in zip(pairs, cut(values, answers, rank, feedback), strict=True):
        left = left[:, left.any(0)]  # (O, r)
        kept.append(((v @ left).mT @ a, growth * left))  # (r, I), (O, r)
    return kept


def cut(
    values: Tensor, answers: Tensor, rank: int, feedback: bool = True
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield every module's values V (..., R, O), directions U (..., O, M) and growth (...).

    What is left of V is growth V U U'. All modules write to one residual stream, so that a share
    (`PASSED_ON`) of what one leaves out is added to the next one's values: error feedback, as in
    gradient compression (Karimireddy et al., 2019). The growth restores the norm of the responses,
    the root of sum S^2 over what is kept of it. Both were chosen on held-out articles.

    Args:
        values: of all modules, (..., L, R, O); row t of each is the same token's.
        answers: A K', what each row says to each key, (..., L, R, R); responses Y are V' A K'.
        rank: directions kept a module, on average; U is 0 where none is.
        feedback: pass on what is left out. False where a norm stands behind down_proj (Gemma 2 and
            3): each layer then scales its directions by itself before the stream gets them, so that
            a later one would not say what an earlier one leaves out.
    """
    with torch.no_grad():
        energies = response_directions(values.mT @ answers)[1]
        marked = keep_largest(energies, rank)  # the first ones of each module
        held = (energies * marked).sum(-1).clamp(min=1e-30)
        growth = (energies.sum(-1) / held).clamp(min=1).sqrt()
    left_out = torch.zeros_like(values[..., 0, :, :])
    for index in range(values.shape[-3]):
        v = values[..., index, :, :] + (PASSED_ON * left_out if feedback else 0)
        with torch.no_grad():
            left = response_directions(v.mT @ answers[..., index, :, :])[0]
            left = left * marked[..., index, None, :]
        left_out = v - (v @ left) @ left.mT
        yield v, left, growth[..., index]


def response_directions(response: Tensor) -> tuple[Tensor, Tensor]:
    """Return U (..., O, M) and S^2 (..., M) of responses Y = U S V' (..., O, R), M = min(O, R)."""
    energies, vectors = _eigh(response.mT @ response)  # ascending
    most = min(response.shape[-2:])
    energies, vectors = energies.flip(-1)[..., :most], vectors.flip(-1)[..., :most]
    left = response @ vectors  # U S
    norms = left.norm(dim=-2, keepdim=True)  # (..., 1, M)
    # Cheaper than by QR. What is a thousandth of the largest is not orthogonal to it in float32,
    # and says nothing.
    return left / torch.maximum(norms, 1e-3 * norms[..., :1]).clamp(min=1e-30), energies


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `torch.linalg.eigh` does of (..., R, R); of a GPU's tensors, on the CPU's cores.

    A GPU works them off one by one: 384 of R = 224 took 1.5 s on an H100, a core 2.5 ms each.
    """
    if not matrices.is_cuda:
        energies, vectors = torch.linalg.eigh(matrices)
        return energies, vectors
    flat, threads = matrices.reshape(-1, *matrices.shape[-2:]).cpu(), torch.get_num_threads()
    torch.set_num_threads(1)  # of each thread that begins now
    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = [*pool.map(torch.linalg.eigh, torch.chunk(flat, threads))]
    finally:
        torch.set_num_threads(threads)
    energies, vectors = (torch.cat(x).to(matrices.device) for x in zip(*parts, strict=True))
    return energies.view(matrices.shape[:-1]), vectors.view_as(matrices)


def keep_largest(energies: Tensor, rank: int) -> Tensor:
    """Mark the largest S^2 / sqrt(sum S^2) of all modules, `rank` a module on average.

    As all modules write to one residual stream, their S^2 could compete as they are; but what early
    layers write, of small norm, is read by all that come later. Divided by their sum all modules
    would keep much alike. The root lies between; it was chosen on held-out articles.

    Args:
        energies: S^2 (..., L, M) of L modules, the largest first.
        rank: marked a module, on average; at least one in each.
    """
    shares = energies / energies.sum(-1, keepdim=True).clamp(min=1e-30).sqrt()
    shares[..., 0] = torch.inf
    flat = shares.flatten(-2)
    most = min(rank * energies.shape[-2], flat.shape[-1])
    kept = torch.zeros_like(flat, dtype=torch.bool)
    return kept.scatter(-1, flat.topk(most).indices, True).view_as(energies)


def project(values: Tensor, a: Tensor, keys: Tensor, rank: int, feedback: bool = True) -> Tensor:
    """Return what `reduce_rank` leaves of values (G, L, R, H), as values.

    Args:
        values: V, (G, L, R, H).
        a: addresses A, (G, L, R, I).
        keys: K, (G, L, R, I); the responses are V' A K'.
        rank: directions kept a layer, on average over the L layers.
        feedback: as in `cut`.
    """
    with torch.autocast(values.device.type, enabled=False):
        answers = a @ keys.float().mT  # (G, L, R, R)
        kept = [
            growth[..., None, None] * (v @ left) @ left.mT
            for v, left, growth in cut(values.float(), answers, rank, feedback)
        ]
    return torch.stack(kept, 1).to(values.dtype)


def _truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the r largest singular directions of B A, without building it."""
    left, upper = torch.linalg.qr(b)  # (O, R), (R, R)
    right, lower = torch.linalg.qr(a.mT)  # (I, R), (R, R)
    u, s, v = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    return (right @ v[:rank].mT).mT, left @ (u[:, :rank] * s[:rank])
