"""The contract that both parametrizers meet: a Document goes in, an Adapter comes out.

An adapter is a LoRA on the FFN matrices of one frozen base model. Its tensors carry stock PEFT
names, so that every file written from here loads in PEFT.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prag_core.corpus.documents import Document

FFN_MODULES = ("gate_proj", "up_proj", "down_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VIEWED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # in safetensors
PEFT_PREFIX = "base_model.model."
EXTRA_PREFIX = "extra."


@dataclass(frozen=True)
class AdapterSpec:
    """What an adapter fits: base model, shape and scale.

    Attributes:
        base_model: fingerprint of the base model (`BaseModel.fingerprint`).
        rank: nominal LoRA rank r. A parametrizer whose rank depends on the document (the
            hypernetwork) states its maximum here, with a rank budget the mean over the modules;
            `Adapter.rank` is what the tensors have.
        alpha: LoRA alpha. The one scale, alpha / rank, is applied once, in `merge`.
        modules: names of the adapted linear layers, e.g. `("down_proj",)`.
        layers: indices of the adapted decoder layers.
        dtype: dtype of the stored tensors.
    """

    base_model: str
    rank: int
    alpha: float
    modules: tuple[str, ...] = FFN_MODULES
    layers: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Normalise module and layer order, so that equal specs hash alike.

        Raises:
            ValueError: rank below 1, no or unknown modules, no layers, unknown dtype.
        """
        if self.rank < 1:
            raise ValueError(f"got rank {self.rank}, expected a rank of 1 or more: set rank >= 1")
        unknown = sorted(set(self.modules) - set(FFN_MODULES))
        if unknown or not self.modules:
            raise ValueError(
                f"got modules {list(self.modules)}, expected a choice of {list(FFN_MODULES)}: "
                "correct the name in `modules`"
            )
        if not self.layers or min(self.layers) < 0:
            raise ValueError(
                f"got layers {list(self.layers)}, expected at least one layer index >= 0: "
                "name the decoder layers to adapt"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"got dtype {self.dtype!r}, expected one of {sorted(DTYPES)}")
        object.__setattr__(self, "modules", tuple(sorted(set(self.modules), key=FFN_MODULES.index)))
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def scale(self) -> float:
        """alpha / rank (Hu et al., 2021, section 4.1)."""
        return self.alpha / self.rank

    @property
    def hash(self) -> str:
        """16 hex digits that identify the spec."""
        return fingerprint(asdict(self))

    def paths(self) -> list[str]:
        """Module paths in order of depth, e.g. `model.layers.0.mlp.gate_proj`."""
        return [f"model.layers.{i}.mlp.{name}" for i in self.layers for name in self.modules]

    def require_base(self, base_model: str) -> None:
        """Raise ValueError unless the spec belongs to the base model with this fingerprint."""
        if self.base_model != base_model:
            raise ValueError(
                f"got an adapter of base model {self.base_model}, expected one of {base_model}: "
                "load the base model it was made for, or parametrize the document again"
            )


def fingerprint(value: object) -> str:
    """Hash a JSON-serialisable value to 16 hex digits (key order does not matter)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Adapter:
    """One document as LoRA weights: spec + {module path: (A, B)}.

    Attributes:
        spec: what the adapter fits.
        tensors: per module path, A (R, I) and B (O, R); the update is scale * B @ A.
        metadata: strings that travel with it (document id, title, parametrizer, ...).
        extra: tensors beside A and B that a merge may use (see `merge`); PEFT ignores them.
    """

    spec: AdapterSpec
    tensors: Mapping[str, tuple[Tensor, Tensor]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names and shapes against the spec.

        Raises:
            ValueError: a module path is missing or unknown, or A and B do not fit each other.
        """
        if set(self.tensors) != set(self.spec.paths()):
            wrong = sorted(set(self.tensors) ^ set(self.spec.paths()))
            raise ValueError(
                f"got {len(self.tensors)} adapted modules, expected {len(self.spec.paths())} as "
                f"in the spec; they differ in {wrong[:3]}: build the adapter from its own spec"
            )
        for path, (a, b) in self.tensors.items():
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                raise ValueError(
                    f"got A {tuple(a.shape)} and B {tuple(b.shape)} at {path}, "
                    "expected A (R, I) and B (O, R) of one rank R: check their order"
                )

    @property
    def rank(self) -> int:
        """Largest rank among the modules (they differ only after pruning)."""
        return max(a.shape[0] for a, _ in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, the extra ones included."""
        pairs = [tensor for pair in self.tensors.values() for tensor in pair]
        return sum(t.numel() * t.element_size() for t in [*pairs, *self.extra.values()])

    def to(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Adapter:
        """Return the adapter with A and B cast and moved; the spec and `extra` keep their dtype."""
        tensors = {
            path: (a.to(device=device, dtype=dtype), b.to(device=device, dtype=dtype))
            for path, (a, b) in self.tensors.items()
        }
        extra = {name: tensor.to(device=device) for name, tensor in self.extra.items()}
        return replace(self, tensors=tensors, extra=extra)

    def to_bytes(self) -> bytes:
        """Serialise to safetensors bytes, under stock PEFT tensor names."""
        tensors = peft_state_dict(self)
        tensors |= {EXTRA_PREFIX + name: t.contiguous() for name, t in self.extra.items()}
        note = {"spec": asdict(self.spec), "metadata": dict(self.metadata)}
        return save(tensors, metadata={"adapter": json.dumps(note)})  # one key: stable bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Adapter:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the bytes are truncated or are not an adapter.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            note = json.loads(header.pop("__metadata__")["adapter"])
            tensors = _views(data, 8 + size, header) or load(data)
            fields, metadata = note["spec"], note["metadata"]
            fields |= {name: tuple(fields[name]) for name in ("modules", "layers")}
            spec = AdapterSpec(**fields)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"got {len(data)} bytes that are not an adapter ({error}), expected safetensors "
                "written by to_bytes: delete the entry and parametrize the document again"
            ) from error
        extra = {
            name.removeprefix(EXTRA_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(EXTRA_PREFIX)
        }
        pairs = {path: _pair(tensors, path) for path in spec.paths()}
        return cls(spec, pairs, metadata, extra)


def peft_state_dict(adapter: Adapter) -> dict[str, Tensor]:
    """Name the tensors as PEFT does: `base_model.model.<path>.lora_{A,B}.weight`."""
    tensors = {}
    for path, (a, b) in adapter.tensors.items():
        tensors[f"{PEFT_PREFIX}{path}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PEFT_PREFIX}{path}.lora_B.weight"] = b.detach().cpu().contiguous()
    return tensors


def peft_pairs(data: bytes, spec: AdapterSpec) -> dict[str, tuple[Tensor, Tensor]]:
    """Read A and B of every module from a safetensors file with PEFT's tensor names.

    Raises:
        ValueError: the bytes are truncated, or a tensor of the spec is missing.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        tensors = _views(data, 8 + size, header) or load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"got {len(data)} bytes that are no safetensors file ({error}), expected an adapter's "
            "weights: delete the entry and parametrize the document again"
        ) from error
    return {path: _pair(tensors, path) for path in spec.paths()}


def _views(data: bytes, start: int, header: dict) -> dict[str, Tensor]:
    """Return the matrices as views of one copy of the bytes, in a fifth of safetensors' time.

    Nothing is returned unless the bytes are a gapless row of matrices of one dtype, in the
    header's order; safetensors then reads or refuses them.
    """
    stored = next(iter(header.values()), {}).get("dtype")
    if stored not in VIEWED:
        return {}
    dtype, end, places = VIEWED[stored], 0, []
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        shape = entry["shape"]
        if begin != end or entry["dtype"] != stored or len(shape) != 2:
            return {}
        if min(shape) < 1 or stop - begin != shape[0] * shape[1] * dtype.itemsize:
            return {}
        places.append((name, shape, begin // dtype.itemsize))
        end = stop
    if start + end != len(data):
        return {}
    flat = torch.frombuffer(bytearray(data), dtype=dtype, offset=start)
    return {name: flat.as_strided(shape, (shape[1], 1), at) for name, shape, at in places}


def _pair(tensors: Mapping[str, Tensor], path: str) -> tuple[Tensor, Tensor]:
    try:
        return (
            tensors[f"{PEFT_PREFIX}{path}.lora_A.weight"],
            tensors[f"{PEFT_PREFIX}{path}.lora_B.weight"],
        )
    except KeyError as error:
        raise ValueError(
            f"got no tensor {error}, expected A and B for {path}: delete the entry and "
            "parametrize the document again"
        ) from error


class Parametrizer(Protocol):
    """Turns documents into adapters, in batches; trained and generated paths both meet this."""

    spec: AdapterSpec
    fingerprint: str  # identifies the method, its settings and its weights (16 hex digits)
    batch_size: int  # documents that the pipeline passes, and stores, at one time

    def parametrize(self, documents: Sequence[Document]) -> list[Adapter]:
        """Return one adapter a document, in the same order."""
        ...


def adapter_key(document_id: str, spec: AdapterSpec, parametrizer_fingerprint: str) -> str:
    """Store key: document hash + spec hash + parametrizer fingerprint, never a position."""
    return f"{document_id}-{spec.hash}-{parametrizer_fingerprint}"
