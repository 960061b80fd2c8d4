"""Ridge memory: keys go in, the rows that answer to them come out; memories are solved together.

A ridge memory is a LoRA whose A rows address keys k_t (inputs of down_proj at a document's tokens)
and whose B columns hold values: ridge regression (Hoerl and Kennard, 1970) as a linear associative
memory (Kohonen, 1972) in the feed-forward layer, itself a key-value memory (Geva et al., 2021).
With K^ the keys scaled by w / sqrt(I), w a fixed whitening:

    A^ = (K^ K^' + lambda)^-1 K^          A = A^ diag(w) / sqrt(I)

so that A k_s is nearly one-hot in s. Solved over the stacked keys of several documents it is their
joint memory: no document's tokens answer for another's. An adapter holds A, not K^; `RidgeMemory`
is what it takes beside A to recover K^ and to solve again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Rows = tuple[Tensor, Tensor]  # A (R, I) and B (O, R) of one module, without the shared rows


@dataclass(frozen=True, eq=False)  # equality of tensors is no truth value
class RidgeMemory:
    """What an adapter's rows were solved from, for its L modules in order of depth.

    Attributes:
        gram: K^ K^', (L, R, R), in half precision as it grows with the square of the tokens.
        whitening: w, (L, I); equal in all memories of one network.
        ridge: lambda, (L,); equal in all memories of one network.
        beside: columns that K^ has beyond its first I where the network spares a background of
            k directions, (L, R, k); A does not tell them.
        sentences: place of the sentence that each row's token stands in, (R,); -1: in the title.
            None where that is not known, as after a merge.
    """

    gram: Tensor
    whitening: Tensor
    ridge: Tensor
    beside: Tensor | None = None
    sentences: Tensor | None = None

    @classmethod
    def from_keys(cls, keys: Tensor, whitening: Tensor, ridge: Tensor) -> RidgeMemory:
        """Keep what a merge needs of K^ (L, R, I or I + k)."""
        inputs = whitening.shape[1]
        beside = keys[..., inputs:].half() if keys.shape[-1] > inputs else None  # (L, R, k)
        return cls((keys @ keys.mT).half(), whitening, ridge, beside)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RidgeMemory:
        """Read what `tensors` named.

        Raises:
            ValueError: a tensor is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if not names - {"beside", "sentences"} <= tensors.keys() <= names:
            raise ValueError(
                f"got a ridge memory of {sorted(tensors)}, expected gram, whitening and ridge, "
                "beside where there is a background, and sentences where they are known: "
                "parametrize the document again"
            )
        return cls(**tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Name the tensors, for a file."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def to(self, device: str | torch.device | None) -> RidgeMemory:
        """Return the memory on a device."""
        return RidgeMemory(**{n: tensor.to(device) for n, tensor in self.tensors().items()})

    def scale(self, module: int) -> Tensor:
        """Return w / sqrt(I) of a module, (I,)."""
        whitening = self.whitening[module].float()  # (I,)
        return whitening / math.sqrt(len(whitening))

    def keys(self, a: Tensor, module: int) -> Tensor:
        """Recover K^ (R, I or I + k) from a module's A (R, I): the inverse of `solve`."""
        rows = a.float() / self.scale(module)  # A^
        # A^ = (G + lambda)^-1 K^, so that K^ = (G + lambda) A^.
        keys = self.gram[module].float() @ rows + self.ridge[module].float() * rows
        if self.beside is None:
            return keys  # (R, I)
        return torch.cat([keys, self.beside[module].float()], 1)  # (R, I + k)

    def solve(self, keys: Tensor, module: int) -> Tensor:
        """Return A (R, I) of keys K^ (R, I or I + k)."""
        rows = solve_rows(keys, self.ridge[module].float())  # as wide as K^
        scale = self.scale(module)
        return rows[:, : len(scale)] * scale  # (R, I)

    def solve_product(self, values: Tensor, keys: Tensor, module: int) -> Tensor:
        """Return B A (O, I) of values B (O, R) and keys K^ (R, I or I + k), without A itself."""
        strength, scale = self.ridge[module].float(), self.scale(module)
        if len(keys) <= keys.shape[1]:  # of the two equal forms the smaller system, as `solve_rows`
            factor = _factor(keys @ keys.mT, strength)  # (R, R)
            product = torch.cholesky_solve(values.mT, factor).mT @ keys  # as wide as K^
        else:
            factor = _factor(keys.mT @ keys, strength)  # as wide as K^, square
            product = torch.cholesky_solve((values @ keys).mT, factor).mT
        return product[:, : len(scale)] * scale  # (O, I)

    def answers(self, module: int) -> Tensor:
        """Return A K' (R, R), what each row says to each key: (G + lambda)^-1 G."""
        gram = self.gram[module].float()
        eye = torch.eye(len(gram), device=gram.device)
        factor = torch.linalg.cholesky(gram + self.ridge[module].float() * eye)
        return torch.cholesky_solve(gram, factor)


def require_one_network(memories: Sequence[RidgeMemory]) -> None:
    """Raise ValueError unless the memories can be solved together."""
    for memory in memories[1:]:
        for name in ("whitening", "ridge"):
            if not torch.equal(getattr(memory, name), getattr(memories[0], name)):
                raise ValueError(
                    f"got adapters that differ in {name}, expected adapters of one network: "
                    "parametrize all documents with one checkpoint"
                )


def solve_together(
    rows: Sequence[Rows],
    memories: Sequence[RidgeMemory | None],
    weights: Sequence[float],
    module: int,
) -> tuple[Rows, Tensor | None]:
    """Solve the memories of several documents jointly in one module.

    By weighted least squares: keys and values are multiplied by the document's weight, so that a
    document of small weight also claims less of what the others' tokens address.

    Args:
        rows: of every document, B times its weight.
        memories: of every document; the rows of one that has none are added as they are.
        weights: of every document.
        module: the place of the module.

    Returns:
        A (sum R, I) and B (O, sum R), and the keys K^ of all rows where they can be solved again.
        More rows than outputs are multiplied out: A is then the update (O, I), B the identity.
    """
    present = {place: memory for place, memory in enumerate(memories) if memory is not None}
    keys = [memory.keys(rows[place][0], module) for place, memory in present.items()]
    if len(keys) > 1:  # a single memory competes with nobody, whatever its weight
        keys = [key * abs(weights[place]) for place, key in zip(present, keys, strict=True)]
    if sum(len(a) for a, _ in rows) > rows[0][1].shape[0]:
        return _multiplied_out(rows, present, keys, module), None
    addresses = [a for a, _ in rows]
    if len(keys) > 1:
        solver = next(iter(present.values()))  # any: whitening and lambda are those of all
        solved = solver.solve(torch.cat(keys), module).to(addresses[0].dtype)  # (sum R, I)
        pieces = torch.split_with_sizes(solved, [len(key) for key in keys])
        for place, piece in zip(present, pieces, strict=True):
            addresses[place] = piece
    joint = torch.cat(addresses), torch.cat([b for _, b in rows], 1)
    return joint, torch.cat(keys) if len(present) == len(rows) else None


def _multiplied_out(
    rows: Sequence[Rows], present: Mapping[int, RidgeMemory], keys: Sequence[Tensor], module: int
) -> Rows:
    """Return the exact update as A (O, I) and B, the identity (O, O)."""
    first_a, first_b = rows[0]
    update = torch.zeros(len(first_b), first_a.shape[1], device=first_a.device)  # (O, I)
    for place, (a, b) in enumerate(rows):
        if place not in present:
            update = update + b.float() @ a.float()
    if present:
        values = torch.cat([rows[place][1].float() for place in present], 1)  # (O, sum R)
        solver = next(iter(present.values()))
        update = update + solver.solve_product(values, torch.cat(list(keys)), module)
    a = update.to(first_a.dtype)
    return a, torch.eye(len(a), dtype=a.dtype, device=a.device)


def solve_rows(keys: Tensor, strength: Tensor) -> Tensor:
    """Return A^ (..., R, I), with exact gradients for keys and lambda.

    A row of zeros (padding) stays zero and changes no other row. Past I rows the equal form
    K^ (K^' K^ + lambda)^-1 is the smaller system.

    Args:
        keys: scaled keys K^, (..., R, I), float32.
        strength: lambda, (..., 1, 1).
    """
    rows: Tensor = _Solve.apply(keys, strength)  # type: ignore[no-untyped-call]
    return rows


class _Solve(torch.autograd.Function):
    """A = P K = K Q with P = (K K' + lambda)^-1 and Q = (K' K + lambda)^-1, the smaller of both.

    With G the gradient of A and X = P G = G Q: that of K is X - X A' K - A X' K (for Q: X - K A' X
    - A G' A), that of lambda -<X, A>: products alone, where autograd would go back through the
    factorisation.
    """

    @staticmethod
    def forward(ctx: Any, keys: Tensor, strength: Tensor) -> Tensor:
        wide = keys.shape[-2] <= keys.shape[-1]
        inverse = _inverse(keys @ keys.mT if wide else keys.mT @ keys, strength)
        rows = inverse @ keys if wide else keys @ inverse  # (..., R, I)
        ctx.wide = wide
        # Frozen keys have no gradient: nothing needs them again.
        ctx.save_for_backward(keys if ctx.needs_input_grad[0] else None, strength, inverse, rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        keys, strength, inverse, rows = ctx.saved_tensors
        x = inverse @ gradient if ctx.wide else gradient @ inverse  # (..., R, I)
        of_keys = of_strength = None
        if ctx.needs_input_grad[0]:
            if ctx.wide:
                both = x @ rows.mT  # (..., R, R)
                of_keys = x - (both + both.mT) @ keys
            else:
                of_keys = x - keys @ (rows.mT @ x) - rows @ (gradient.mT @ rows)
        if ctx.needs_input_grad[1]:
            # A product, as x * rows would be written to memory whole.
            each = -(x.flatten(-2)[..., None, :] @ rows.flatten(-2)[..., None])  # (..., 1, 1)
            of_strength = each.sum_to_size(strength.shape)
        return of_keys, of_strength


def _inverse(gram: Tensor, strength: Tensor) -> Tensor:
    """Return (gram + strength)^-1 by Cholesky (batched LU fails in some CPU libraries)."""
    eye = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    return torch.cholesky_solve(eye.expand_as(gram), _factor(gram, strength))


def _factor(gram: Tensor, strength: Tensor) -> Tensor:
    """Return the Cholesky factor of gram + strength; unchecked, as a check would wait for a GPU."""
    eye = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    factor: Tensor = torch.linalg.cholesky_ex(gram + strength * eye)[0]
    return factor
