"""LoRA matrices read from another format go in, an Adapter of a base model comes out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from prag_core.adapters.adapter import DTYPES, FFN_MODULES, Adapter, AdapterSpec, read_memory
from prag_core.model.base_model import BaseModel


@dataclass(frozen=True)
class ForeignLora:
    """What a LoRA file holds, whatever its format.

    Attributes:
        source: where it was read, for errors.
        pairs: per module path, A (R, I) and B (O, R).
        scales: per module path, the factor of B @ A.
        note: `Adapter.note` where this package wrote the file, else empty.
        memory: tensors of its ridge memory and shared rows (see `memory_state_dict`).
    """

    source: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    note: Mapping[str, Any]
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # no other format has one

    def to_adapter(self, base: BaseModel) -> Adapter:
        """Bring all modules to one scale; add the zero modules that the spec's grid lacks.

        Raises:
            ValueError: nothing adapted, made for another base model, or changed after export.
        """
        _require_shapes(self, base)
        spec = self._noted_spec(base) if self.note else self._new_spec(base)
        dtype, tensors = spec.torch_dtype, {}
        for path in spec.paths():
            inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
            # A spec adapts every module in every layer; a module of zeros changes nothing.
            a, b = self.pairs.get(path, (torch.zeros(1, inputs), torch.zeros(outputs, 1)))
            factor = self.scales.get(path, spec.scale) / spec.scale
            if not math.isclose(factor, 1, rel_tol=1e-6):  # else B stays bit by bit
                b = b.float() * factor
            tensors[path] = a.to(dtype).contiguous(), b.to(dtype).contiguous()
        return Adapter(spec, tensors, self.note.get("metadata", {}), *read_memory(self.memory))

    def _new_spec(self, base: BaseModel) -> AdapterSpec:
        rank = max(len(a) for a, _ in self.pairs.values())
        # The first scale is the spec's; modules of another one have it in their B.
        scale = next((scale for scale in self.scales.values() if scale), 1.0)
        present = {tensor.dtype for pair in self.pairs.values() for tensor in pair}
        dtype = next((name for name, dtype in DTYPES.items() if present == {dtype}), "float32")
        modules = tuple({path.rsplit(".", 1)[1] for path in self.pairs})
        layers = tuple({int(path.split(".")[2]) for path in self.pairs})
        return AdapterSpec(base.fingerprint, rank, scale * rank, modules, layers, dtype)

    def _noted_spec(self, base: BaseModel) -> AdapterSpec:
        """Return the spec of the note; ValueError where base, modules or scale are others."""
        try:
            spec = AdapterSpec(**self.note["spec"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"got {self.source} whose note (prag_adapter.json) has no spec of this version "
                f"({error}): export it again, or remove the note to import it as a foreign one"
            ) from error
        spec.require_base(base.fingerprint)
        # Whoever edits alpha or modules by hand wants that to count, and the note says otherwise.
        same_scale = all(math.isclose(s, spec.scale, rel_tol=1e-6) for s in self.scales.values())
        if set(self.pairs) != set(spec.paths()) or not same_scale:
            raise ValueError(
                f"got {self.source} changed since its export (scale or modules), expected what "
                f"its note says ({spec}): export it again, or remove the note (prag_adapter.json) "
                "to import it as a foreign one"
            )
        return spec


def read_pairs(
    tensors: Mapping[str, Tensor], name: re.Pattern[str], source: object
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by module path.

    Args:
        tensors: by the names of the format.
        name: what they look like; its groups are layer, gate|up|down, and a|b in either case.
        source: where they were read, for errors.

    Raises:
        ValueError: a tensor of another name, or A without B.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for full_name, tensor in tensors.items():
        if match := name.fullmatch(full_name):
            path = f"model.layers.{int(match[1])}.mlp.{match[2]}_proj"
            half = halves.setdefault(path, {})
            if match[3].lower() in half:
                raise ValueError(
                    f"got {full_name} beside another one for {path} in {source}, expected one "
                    "adapter a file: save each by itself"
                )
            half[match[3].lower()] = tensor
        else:
            unknown.append(full_name)
    unknown += [f"{path} without A or B" for path, half in halves.items() if len(half) != 2]
    if unknown:
        raise ValueError(
            f"got tensor {unknown[0]} (of {len(unknown)} such) in {source}, expected LoRA pairs on "
            f"{', '.join(FFN_MODULES)} only: train it with these target_modules"
        )
    return {path: (half["a"], half["b"]) for path, half in halves.items()}


def pad_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Add zero rows to A (R, I) and zero columns to B (O, R), up to `rank`; B @ A is the same."""
    missing = rank - len(a)
    return pad(a, (0, 0, 0, missing)), pad(b, (0, missing))  # (rank, I), (O, rank)


def _require_shapes(lora: ForeignLora, base: BaseModel) -> None:
    if not lora.pairs:
        raise ValueError(
            f"got no LoRA matrices in {lora.source}, expected some on {', '.join(FFN_MODULES)}: "
            "check that it is a LoRA of this model"
        )
    for path, (a, b) in lora.pairs.items():
        kinds = {tensor.dtype for tensor in (a, b) if not tensor.is_floating_point()}
        if kinds or not all(torch.isfinite(tensor.float()).all() for tensor in (a, b)):
            raise ValueError(
                f"got values of {path} in {lora.source} that are "
                f"{', '.join(map(str, kinds)) or 'not finite'}, expected finite floating-point "
                "ones: save the adapter again, without quantisation"
            )
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        # A foreign file has no fingerprint of its base: shapes and depth are all that can tell.
        fits = (a.shape, b.shape) == ((len(a), inputs), (outputs, len(a))) and len(a) >= 1
        if not fits or int(path.split(".")[2]) >= base.num_layers:
            raise ValueError(
                f"got A {tuple(a.shape)} and B {tuple(b.shape)} at {path} in {lora.source}, "
                f"expected A (R, {inputs}), B ({outputs}, R) and one of {base.num_layers} layers: "
                f"it was made for another base model than {base.name}"
            )
