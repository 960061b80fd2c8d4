"""GGUF LoRA files for llama.cpp: an Adapter goes in or comes out.

llama.cpp scales by alpha / rank with one alpha a file, so modules of a lower rank are padded with
zeros. Extra tensors of an adapter do not fit the format and are left out. bfloat16 becomes
float32, which every build of llama.cpp adds without loss. Nothing is permuted: llama.cpp turns only
the rows of Llama's q and k (its rotary embedding pairs other dimensions); FFN matrices are as in
transformers.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from prag_core.adapters.adapter import Adapter
from prag_core.files import replacing
from prag_core.formats.foreign_lora import ForeignLora, pad_rank, read_pairs
from prag_core.model.base_model import BaseModel

# What llama.cpp calls the architectures of transformers.
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3_text": "gemma3",
}  # fmt: skip
TENSOR_NAME = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)\.weight\.lora_([ab])")
NOTE_KEY = "prag.adapter"  # `Adapter.note` as JSON


def to_gguf(adapter: Adapter, path: str | Path, model_type: str) -> Path:
    """Write a GGUF LoRA file under a temporary name, then rename it.

    Args:
        adapter: what to write.
        path: the file; replaced if there is one.
        model_type: `config.model_type` of the base model; llama.cpp loads an adapter only onto a
            model of the same architecture.

    Raises:
        ValueError: a model type that llama.cpp names otherwise or does not have.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"got model type {model_type!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    path = Path(path)
    rank = max(1, adapter.rank)  # llama.cpp takes no rank 0
    path.parent.mkdir(parents=True, exist_ok=True)
    architecture = ARCHITECTURES[model_type]
    with replacing(path) as scratch, closing(gguf.GGUFWriter(scratch, architecture)) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", adapter.spec.scale * rank)
        writer.add_string(NOTE_KEY, json.dumps(adapter.note, sort_keys=True, ensure_ascii=False))
        for module_path, pair in adapter.tensors.items():
            _, _, layer, _, module = module_path.split(".")
            name = f"blk.{layer}.ffn_{module.removesuffix('_proj')}.weight.lora_"
            for letter, tensor in zip("ab", pad_rank(*pair, rank), strict=True):
                writer.add_tensor(name + letter, _array(tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return path


def from_gguf(path: str | Path, base: BaseModel) -> Adapter:
    """Read a GGUF LoRA file on FFN modules; tensors of all types but float16 become float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a GGUF LoRA file, not on FFN modules only, of a tensor type that the package
            gguf does not read (float64, say), or of another base model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got no file {path}, expected a GGUF LoRA file: check the path")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError, KeyError) as error:
        raise ValueError(
            f"got {path} that is damaged or no GGUF file ({error}): export it again"
        ) from error
    _require_lora(reader, path, base)
    pairs = read_pairs({t.name: _tensor(t, path) for t in reader.tensors}, TENSOR_NAME, path)
    # Files without alpha are of scale 1, as llama.cpp reads them.
    alpha = float(_value(reader, "adapter.lora.alpha") or 0.0)
    scales = {p: alpha / a.shape[0] if alpha else 1.0 for p, (a, _) in pairs.items()}
    try:
        note = json.loads(_value(reader, NOTE_KEY) or "{}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"got {path} whose {NOTE_KEY} is no JSON: export it again") from error
    return ForeignLora(str(path), pairs, scales, note).to_adapter(base)


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _value(reader: gguf.GGUFReader, key: str) -> str | float | None:
    """Return a string or a number of the file's header; None where it is not there."""
    field = reader.fields.get(key)
    if field is None:
        return None
    part = field.parts[field.data[0]]
    is_text = field.types[0] == gguf.GGUFValueType.STRING
    return bytes(part).decode() if is_text else part[0].item()


def _require_lora(reader: gguf.GGUFReader, path: Path, base: BaseModel) -> None:
    model_type = base.model.config.model_type
    # Without the last a file of another architecture would do: llama.cpp names all layers alike.
    expected = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": ARCHITECTURES.get(model_type, model_type),
    }
    header = {key: _value(reader, key) for key in expected}
    if header != expected:
        raise ValueError(
            f"got {path} with {header}, expected {expected}: name a LoRA adapter made for the base "
            f"model {base.name}, not a model file"
        )


def _tensor(tensor: gguf.ReaderTensor, path: Path) -> Tensor:
    is_half = tensor.tensor_type == gguf.GGMLQuantizationType.F16
    try:
        data = tensor.data if is_half else gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ValueError(
            f"got tensor {tensor.name} of type {tensor.tensor_type.name} in {path}, expected one "
            "of F32, F16, BF16 or a common quantisation: export it again in one of those"
        ) from error
    return torch.tensor(data)  # a copy: the reader maps the file
