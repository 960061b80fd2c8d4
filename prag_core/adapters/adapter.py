"""The contract that both parametrizers meet: a Document goes in, an Adapter comes out.

An adapter is a LoRA on the FFN matrices of one frozen base model. Its tensors carry stock PEFT
names, so that every file written from here loads in PEFT. Two things may come with it, which only a
merge needs: the number of rows that all adapters of its parametrizer share, and its ridge memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prag_core.adapters.int8 import dequantise, quantise
from prag_core.adapters.names import FFN_MODULES as FFN_MODULES
from prag_core.adapters.names import INT8
from prag_core.adapters.ridge_memory import RidgeMemory
from prag_core.corpus.documents import Document

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PEFT_PREFIX = "base_model.model."
MEMORY_PREFIX = "memory."
SHARED_NOTE = (
    "The last {rows} rows of every module are the same in all adapters of one parametrizer. In a "
    "sum of several adapters they count once: sum parts (prag store export --part own, and one "
    "--part shared, each at its weight), not whole adapters."
)


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
        dtype: dtype of the stored tensors; `int8` has a scale a row, and is float32 in memory.
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
        unknown = set(self.modules) - set(FFN_MODULES)
        for fits, got, expected in (
            (self.rank >= 1, f"rank {self.rank}", "a rank of 1 or more: set rank >= 1"),
            (self.modules and not unknown, f"modules {list(self.modules)}",
             f"a choice of {list(FFN_MODULES)}: correct the name in `modules`"),
            (min(self.layers, default=-1) >= 0, f"layers {list(self.layers)}",
             "at least one layer index >= 0: name the decoder layers to adapt"),
            (self.dtype in (*DTYPES, INT8), f"dtype {self.dtype!r}",
             f"one of {sorted((*DTYPES, INT8))}"),
        ):  # fmt: skip
            if not fits:
                raise ValueError(f"got {got}, expected {expected}")
        # Frozen: the fields can only be set past the class's own __setattr__.
        object.__setattr__(self, "modules", tuple(sorted(set(self.modules), key=FFN_MODULES.index)))
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def scale(self) -> float:
        """alpha / rank (Hu et al., 2021, section 4.1)."""
        return self.alpha / self.rank

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of A and B in memory."""
        return DTYPES.get(self.dtype, torch.float32)

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


def hash_adapter(adapter: Adapter) -> str:
    """Hash an adapter's file."""
    return fingerprint(adapter.to_bytes().hex())


def fingerprint(value: object) -> str:
    """Hash a JSON-serialisable value to 16 hex digits (key order does not matter)."""
    # default=str, so that paths count too; the digest is short as it stands in names of files.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Adapter:
    """One document as LoRA weights: spec + {module path: (A, B)}.

    Attributes:
        spec: what the adapter fits.
        tensors: per module path, A (R, I) and B (O, R); the update is scale * B @ A.
        metadata: strings that travel with it (document id, title, parametrizer, ...).
        memory: what the rows were solved from, where they are a ridge memory.
        shared_rows: so many last rows of every module are equal in all adapters of the
            parametrizer (the answer's format): an adapter is complete by itself, a merge counts
            them once.
    """

    spec: AdapterSpec
    tensors: Mapping[str, tuple[Tensor, Tensor]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    memory: RidgeMemory | None = None
    shared_rows: int = 0

    def __post_init__(self) -> None:
        """Check names and shapes against the spec.

        Raises:
            ValueError: a module path is missing or unknown, or A and B do not fit each other, or
                the memory or the shared rows do not fit them.
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
        # A memory holds one Gram matrix a module, of the rows that are the document's own.
        own = [a.shape[0] - self.shared_rows for a, _ in self.tensors.values()]
        solved = own if self.memory is None else [len(gram) for gram in self.memory.gram]
        if self.shared_rows < 0 or min(own) < 0 or own != solved:
            raise ValueError(
                f"got {own[:3]} rows beside {self.shared_rows} shared ones, and a memory of "
                f"{solved[:3]}, expected a memory of the rows that are not shared: parametrize the "
                "document again"
            )

    @property
    def rank(self) -> int:
        """Largest rank among the modules (they differ only after pruning)."""
        return max(a.shape[0] for a, _ in self.tensors.values())

    def split(self, path: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Part a module's A and B into the document's own rows and the shared ones (the last)."""
        a, b = self.tensors[path]
        own = a.shape[0] - self.shared_rows
        return (a[:own], b[:, :own]), (a[own:], b[:, own:])  # (R, I), (O, R); (shared, I), ..

    def part(self, which: Literal["own", "shared"]) -> Adapter:
        """Return the document's own rows alone, or those that it shares, as an adapter.

        Whoever sums whole adapters with other programs counts the shared rows as often as there are
        adapters. In parts the sum is that of `merge`: the shared ones once, and every document's
        own ones.

        Raises:
            ValueError: there are no shared rows.
        """
        if not self.shared_rows:
            raise ValueError(
                f"got an adapter without shared rows, expected some to take its {which} ones: use "
                "the whole adapter"
            )
        index = ("own", "shared").index(which)
        tensors = {path: self.split(path)[index] for path in self.tensors}
        memory = self.memory if which == "own" else None
        return replace(self, tensors=tensors, memory=memory, shared_rows=0)

    def with_shared(self, shared: Adapter) -> Adapter:
        """Return the adapter, which shares no rows yet, with those of `part("shared")` behind."""
        tensors = {
            path: (torch.cat([a, rows]), torch.cat([b, columns], 1))  # (R, I), (O, R)
            for path, (a, b) in self.tensors.items()
            for rows, columns in [shared.tensors[path]]
        }
        return replace(self, tensors=tensors, shared_rows=shared.rank)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are held in memory, those of the ridge memory included."""
        pairs = sum(tensor.nbytes for pair in self.tensors.values() for tensor in pair)
        return pairs + (self.memory.nbytes if self.memory else 0)

    @property
    def shares_much(self) -> bool:
        """Say whether shared rows are a quarter or more: packs then have them once, apart.

        Fewer are not worth the second file that is read.
        """
        return self.shared_rows > 0 and 4 * self.shared_rows >= self.rank

    @property
    def stored_bytes(self) -> int:
        """Bytes that a store keeps of this document.

        In int8 these are one a number, and a scale a row of A and B; shared rows that a store has
        once for all of them do not count.
        """
        if self.spec.dtype != INT8:
            return self.nbytes
        own = self.part("own") if self.shares_much else self
        pairs = sum(a.numel() + b.numel() + 8 * len(a) for a, b in own.tensors.values())
        return pairs + (self.memory.nbytes if self.memory else 0)

    def to(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Adapter:
        """Return the adapter with A and B cast and moved; spec and memory keep their dtype."""
        tensors = {
            path: (a.to(device=device, dtype=dtype), b.to(device=device, dtype=dtype))
            for path, (a, b) in self.tensors.items()
        }
        memory = self.memory.to(device) if self.memory else None
        return replace(self, tensors=tensors, memory=memory)

    def rounded(self) -> Adapter:
        """Return the adapter as a store gives it back: A and B on the grid of an int8 spec."""
        if self.spec.dtype != INT8:
            return self
        tensors = dequantise(quantise(peft_state_dict(self)))
        pairs = {
            p: (tensors[_peft_name(p, "A")], tensors[_peft_name(p, "B")]) for p in self.tensors
        }
        return replace(self, tensors=pairs)

    @property
    def note(self) -> dict[str, Any]:
        """Spec and metadata, as a file keeps them beside the tensors.

        And, for those who merge with other programs, how rows that all documents share count.
        """
        note: dict[str, Any] = {"spec": asdict(self.spec), "metadata": dict(self.metadata)}
        if self.shared_rows:
            note["shared_rows"] = SHARED_NOTE.format(rows=self.shared_rows)
        return note

    def to_bytes(self) -> bytes:
        """Serialise to safetensors bytes, under stock PEFT tensor names (int8: scales beside)."""
        tensors = peft_state_dict(self)
        if self.spec.dtype == INT8:
            tensors = quantise(tensors)
        memory = {MEMORY_PREFIX + name: t for name, t in memory_state_dict(self).items()}
        # One metadata key only: safetensors writes several in any order.
        return save(tensors | memory, {"adapter": json.dumps(self.note)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Adapter:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the bytes are truncated or are not an adapter.
        """
        try:
            tensors = dequantise(load(data))
            size = int.from_bytes(data[:8], "little")  # safetensors' own reader hides the metadata
            note = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["adapter"])
            spec, metadata = AdapterSpec(**note["spec"]), note["metadata"]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"got {len(data)} bytes that are not an adapter ({error}), expected safetensors "
                "written by to_bytes: delete the entry and parametrize the document again"
            ) from error
        return cls.from_tensors(tensors, spec, metadata)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], spec: AdapterSpec, metadata: Mapping[str, str]
    ) -> Adapter:
        """Build an adapter from tensors with PEFT's names, and those of a memory beside them.

        Raises:
            ValueError: a tensor of the spec or of the memory is missing, or does not fit.
        """
        try:
            pairs = {
                path: (tensors[_peft_name(path, "A")], tensors[_peft_name(path, "B")])
                for path in spec.paths()
            }
        except KeyError as error:
            raise ValueError(
                f"got no tensor {error}, expected A and B of every module in the spec: delete the "
                "entry and parametrize the document again"
            ) from error
        return cls(spec, pairs, metadata, *read_memory(tensors))


def peft_state_dict(adapter: Adapter) -> dict[str, Tensor]:
    """Name A and B as PEFT does: `base_model.model.<path>.lora_{A,B}.weight`."""
    return {
        _peft_name(path, letter): tensor.detach().cpu().contiguous()
        for path, pair in adapter.tensors.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


def memory_state_dict(adapter: Adapter) -> dict[str, Tensor]:
    """Name what a merge needs beside A and B; empty for a plain LoRA."""
    if not adapter.memory and not adapter.shared_rows:
        return {}
    tensors = adapter.memory.tensors() if adapter.memory else {}
    tensors["shared_rows"] = torch.tensor([adapter.shared_rows])
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def read_memory(tensors: Mapping[str, Tensor]) -> tuple[RidgeMemory | None, int]:
    """Return memory and shared rows from what `memory_state_dict` named; passes over A and B.

    Raises:
        ValueError: a tensor of the memory is missing or unknown.
    """
    parts = {
        name.removeprefix(MEMORY_PREFIX): tensor  # the prefix is there where all are in one file
        for name, tensor in tensors.items()
        if not name.startswith(PEFT_PREFIX)
    }
    shared = int(parts.pop("shared_rows", 0))
    return RidgeMemory.from_tensors(parts) if parts else None, shared


def _peft_name(path: str, letter: str) -> str:
    return f"{PEFT_PREFIX}{path}.lora_{letter}.weight"


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
