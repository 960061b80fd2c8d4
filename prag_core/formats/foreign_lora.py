"""LoRA matrices read from another format go in, an Adapter of a base model comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prag_core.adapters.adapter import DTYPES, FFN_MODULES, Adapter, AdapterSpec, read_memory
from prag_core.model.base_model import BaseModel


@dataclass(frozen=True)
class ForeignLora:
    """What a LoRA file holds, whatever its format.

    Attributes:
        source: where it was read, for errors.
        pairs: per module path, A (R, I) and B (O, R).
        scales: per module path, the factor of B @ A.
        note: `{"spec": ..., "metadata": ...}` where this package wrote the file, else empty.
        memory: tensors of its ridge memory and shared rows (see `memory_state_dict`).
    """

    source: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    note: Mapping[str, dict] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def to_adapter(self, base: BaseModel) -> Adapter:
        """Bring all modules to one scale; add the zero modules that the spec's grid lacks.

        Raises:
            ValueError: nothing adapted, made for another base model, or changed after export.
        """
        _require_shapes(self, base)
        spec = self._own_spec(base) if self.note else self._new_spec(base)
        tensors = {}
        for path in spec.paths():
            a, b = self.pairs.get(path) or _zeros(base, path)
            factor = self.scales.get(path, spec.scale) / spec.scale
            if not math.isclose(factor, 1, rel_tol=1e-6):
                b = b.float() * factor
            dtype = DTYPES[spec.dtype]
            tensors[path] = (a.to(dtype).contiguous(), b.to(dtype).contiguous())
        return Adapter(spec, tensors, self.note.get("metadata", {}), *read_memory(self.memory))

    def _new_spec(self, base: BaseModel) -> AdapterSpec:
        rank = max(a.shape[0] for a, _ in self.pairs.values())
        scale = next((scale for scale in self.scales.values() if scale), 1.0)
        found = {tensor.dtype for pair in self.pairs.values() for tensor in pair}
        names = [name for name, dtype in DTYPES.items() if found == {dtype}]
        modules = tuple({path.rsplit(".", 1)[1] for path in self.pairs})
        layers = tuple({int(path.split(".")[2]) for path in self.pairs})
        dtype = names[0] if names else "float32"
        return AdapterSpec(base.fingerprint, rank, scale * rank, modules, layers, dtype)

    def _own_spec(self, base: BaseModel) -> AdapterSpec:
        fields = self.note["spec"]
        spec = AdapterSpec(
            **{**fields, "modules": tuple(fields["modules"]), "layers": tuple(fields["layers"])}
        )
        spec.require_base(base.fingerprint)
        same_scale = all(math.isclose(s, spec.scale, rel_tol=1e-6) for s in self.scales.values())
        if set(self.pairs) != set(spec.paths()) or not same_scale:
            raise ValueError(
                f"got {self.source} changed since its export (scale or modules), expected what "
                f"its note says ({spec}): export it again, or remove the note (prag_adapter.json) "
                "to import it as a foreign one"
            )
        return spec


def pad_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Add zero rows to A (R, I) and zero columns to B (O, R), up to `rank`; B @ A is the same."""
    missing = rank - a.shape[0]
    return (
        torch.cat([a, a.new_zeros(missing, a.shape[1])]),  # (rank, I)
        torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1),  # (O, rank)
    )


def _zeros(base: BaseModel, path: str) -> tuple[Tensor, Tensor]:
    inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
    return torch.zeros(1, inputs), torch.zeros(outputs, 1)


def _require_shapes(lora: ForeignLora, base: BaseModel) -> None:
    if not lora.pairs:
        raise ValueError(
            f"got no LoRA matrices in {lora.source}, expected some on {', '.join(FFN_MODULES)}: "
            "check that it is a LoRA of this model"
        )
    for path, (a, b) in lora.pairs.items():
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] >= 1
        fits = fits and (a.shape[1], b.shape[0]) == (inputs, outputs)
        if not fits or int(path.split(".")[2]) >= base.num_layers:
            raise ValueError(
                f"got A {tuple(a.shape)} and B {tuple(b.shape)} at {path} in {lora.source}, "
                f"expected A (R, {inputs}), B ({outputs}, R) and one of {base.num_layers} layers: "
                f"it was made for another base model than {base.name}"
            )
