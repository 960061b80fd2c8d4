"""Export and import: an Adapter becomes a stock PEFT folder, and a LoRA folder an Adapter.

A PEFT folder loads in PEFT and vLLM as it is. Beside PEFT's own two files lies `prag_adapter.json`
(spec and metadata), and `memory.safetensors` where the adapter has a ridge memory or shared rows;
other programs ignore both. GGUF files, for llama.cpp, are written and read by `gguf_lora`.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from prag_core.adapters.adapter import FFN_MODULES, Adapter
from prag_core.adapters.peft_files import (
    CONFIG,
    MEMORY,
    NOTE,
    WEIGHTS,
    adapter_files,
    json_bytes,
)
from prag_core.formats.foreign_lora import ForeignLora, pad_rank
from prag_core.formats.gguf_file import from_gguf, to_gguf
from prag_core.model.base_model import BaseModel

__all__ = ["from_gguf", "from_peft", "to_gguf", "to_peft"]

TENSOR_NAME = re.compile(
    rf"base_model\.model\.(model\.layers\.\d+\.mlp\.(?:{'|'.join(FFN_MODULES)}))"
    r"\.lora_([AB])\.weight"
)
# Settings of PEFT that change what A and B mean; each must be absent, null, false or empty.
UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication",
    "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens",
    "use_bdlora", "kasa_config",
)  # fmt: skip
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations of PEFT


def to_peft(
    adapter: Adapter, folder: str | Path, base_model_name: str, weights: Path | None = None
) -> Path:
    """Write a stock PEFT LoRA folder; equal adapters give equal bytes.

    Args:
        adapter: what to write.
        folder: must not exist yet or be empty, as serving engines cache adapters by path.
        base_model_name: hub name or folder that the serving engine knows the base model by.
        weights: a file that may hold the same weights; it is hard-linked where it does.

    Raises:
        ValueError: the folder has content.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"got {folder}, which has content, expected a new or empty folder: remove it or "
            "choose another name"
        )
    pairs = {p: pad_rank(a, b, max(1, a.shape[0])) for p, (a, b) in adapter.tensors.items()}
    adapter = replace(adapter, tensors=pairs)  # PEFT takes no rank 0
    note = {"spec": asdict(adapter.spec), "metadata": dict(adapter.metadata)}
    files = adapter_files(adapter, base_model_name) | {NOTE: json_bytes(note)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        scratch.chmod(0o755)
        for name, content in files.items():
            if name == WEIGHTS and weights is not None and _link(weights, scratch / name, content):
                continue
            (scratch / name).write_bytes(content)
            (scratch / name).chmod(0o644)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def from_peft(folder: str | Path, base: BaseModel) -> Adapter:
    """Read a PEFT LoRA folder on FFN modules; rsLoRA and per-module ranks and alphas included.

    Which modules are adapted is read off the tensors, so `target_modules` may be a list or a
    regular expression.

    Raises:
        FileNotFoundError: no such folder, or no PEFT files in it.
        ValueError: not a plain LoRA on FFN modules, damaged, or of another base model.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    _require_plain_lora(config, folder)
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise ValueError(
            f"got pickled weights {folder / 'adapter_model.bin'}, expected {WEIGHTS}: save it "
            "again with PEFT's safe_serialization=True, as pickle files can run code"
        )
    pairs = _pairs(_read_tensors(folder / WEIGHTS), folder)
    scales = {path: _scale(config, path, a.shape[0]) for path, (a, _) in pairs.items()}
    note = _read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    memory = _read_tensors(folder / MEMORY) if (folder / MEMORY).is_file() else {}
    return ForeignLora(str(folder), pairs, scales, note, memory).to_adapter(base)


def _link(source: Path, target: Path, content: bytes) -> bool:
    """Hard-link a file with this content; False where it has another, or lies on another disk."""
    if source.read_bytes() != content:
        return False
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        return False
    return True


def _require_plain_lora(config: Mapping, folder: Path) -> None:
    wrong = [f"{key}={config[key]!r}" for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        wrong.append(f"peft_type={config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        wrong.append(f"bias={config['bias']!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(BASE_CHANGING):
        wrong.append(f"init_lora_weights={start!r} (it changes the base model)")
    if wrong:
        raise ValueError(
            f"got {', '.join(wrong)} in {folder / CONFIG}, expected plain LoRA without bias: "
            "train it without these settings, or convert it with PEFT"
        )


def _pairs(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        if match := TENSOR_NAME.fullmatch(name):
            halves.setdefault(match[1], {})[match[2]] = tensor
        else:
            unknown.append(name)
    unknown += [f"{path} without A or B" for path, half in halves.items() if len(half) != 2]
    if unknown:
        raise ValueError(
            f"got {len(unknown)} tensors such as {unknown[0]} in {folder / WEIGHTS}, expected "
            f"LoRA pairs on {', '.join(FFN_MODULES)} only: train it with these target_modules"
        )
    return {path: (half["A"], half["B"]) for path, half in halves.items()}


def _scale(config: Mapping, path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski, 2023)."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):  # as PEFT does: the first match counts
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"got no file {path}, expected a PEFT folder with {CONFIG} and {WEIGHTS}: check the "
            "path"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"got {path} that is not JSON ({error}): export it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"got {path} with a JSON {type(content).__name__}, expected an object")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"got no file {path}, expected one beside {CONFIG}: check the path")
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"got {path} that is damaged or no safetensors file ({error}): export it again"
        ) from error
