"""PEFT folders: an Adapter becomes a stock PEFT folder, and a LoRA folder an Adapter.

A PEFT folder loads in PEFT and vLLM as it is. Beside PEFT's own two files lies `prag_adapter.json`
(spec and metadata), and `memory.safetensors` where the adapter has a ridge memory or shared rows;
other programs ignore both.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from prag_core.adapters.adapter import FFN_MODULES, Adapter
from prag_core.adapters.names import INT8
from prag_core.adapters.peft_files import CONFIG, MEMORY, NOTE, WEIGHTS, adapter_files, json_bytes
from prag_core.formats.foreign_lora import ForeignLora, pad_rank, read_pairs
from prag_core.model.base_model import BaseModel

# With whatever wraps the model (PEFT, DDP, torch.compile, a multimodal model), and with the
# adapter's name, which a plain state dict of a PEFT model has.
TENSOR_NAME = re.compile(
    r"(?:(?:base_model|model|language_model|module|_orig_mod)\.)*layers\.(\d+)\.mlp\."
    r"(gate|up|down)_proj\.lora_([AB])(?:\.[^.]+)?\.weight"
)
# Settings of PEFT that change what A and B mean; each must be absent, null, false or empty.
UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication",
    "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens",
    "use_bdlora", "kasa_config", "monteclora_config", "arrow_config",
)  # fmt: skip
# Initialisations of PEFT, which compares some without regard to case.
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


def to_peft(
    adapter: Adapter, folder: str | Path, base_model_name: str, weights: Path | None = None
) -> Path:
    """Write a stock PEFT LoRA folder, int8 as bfloat16; equal adapters give equal bytes.

    Args:
        adapter: what to write.
        folder: must not exist yet or be empty, as serving engines cache adapters by path.
        base_model_name: hub name or folder that the serving engine knows the base model by.
        weights: a file that may hold the same weights; it is hard-linked where it does.

    Raises:
        ValueError: the folder has content.
    """
    folder = Path(folder)
    require_empty(folder)
    if adapter.spec.dtype == INT8:  # PEFT has no scales beside A and B
        adapter = adapter.to(torch.bfloat16)
    # PEFT takes no rank 0: a module that was pruned away has one row of zeros.
    pairs = {p: pad_rank(a, b, max(1, len(a))) for p, (a, b) in adapter.tensors.items()}
    files = adapter_files(replace(adapter, tensors=pairs), base_model_name)
    files[NOTE] = json_bytes(adapter.note)
    # A folder appears whole, by a rename: engines look for new ones at any time.
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    scratch.mkdir(parents=True)
    try:
        for name, content in files.items():
            # A link costs no disk, and stays whole where the store drops its own.
            linked = name == WEIGHTS and weights and _link(weights, scratch / name, content)
            if not linked:
                (scratch / name).write_bytes(content)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def require_empty(folder: Path) -> None:
    """Raise ValueError unless a folder can be written anew."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"got {folder}, which has content, expected a new or empty folder: remove it or "
            "choose another name"
        )


def from_peft(folder: str | Path, base: BaseModel) -> Adapter:
    """Read a PEFT LoRA folder on FFN modules; rsLoRA and per-module ranks and alphas included.

    Which modules are adapted is read off the tensors, so `target_modules` may be a list or a
    regular expression.

    Raises:
        FileNotFoundError: no such folder, or no PEFT files in it.
        ValueError: not a plain LoRA on FFN modules, damaged, or of another base model.
    """
    folder = Path(folder)
    # First, so that a folder that is no PEFT folder at all is named as such.
    config = _read(folder / CONFIG, _json_object)
    _require_plain_lora(config, folder)
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise ValueError(
            f"got pickled weights {folder / 'adapter_model.bin'}, expected {WEIGHTS}: save it "
            "again with PEFT's safe_serialization=True, as pickle files can run code"
        )
    pairs = read_pairs(_read(folder / WEIGHTS, load), TENSOR_NAME, folder / WEIGHTS)
    note = _read(folder / NOTE, _json_object) if (folder / NOTE).is_file() else {}
    try:
        # Modules may have ranks of their own, and with one alpha so scales of their own.
        scales = {path: _scale(config, path, len(a)) for path, (a, _) in pairs.items()}
        if not note:  # else the note's spec says it
            _require_targets(config, pairs, base)
    except (re.error, AttributeError, TypeError, ValueError) as error:
        reason = str(error).removeprefix("got ")
        raise ValueError(
            f"got {folder / CONFIG} that does not fit its weights: {reason}; save the adapter "
            "again with PEFT's save_pretrained"
        ) from error
    memory = _read(folder / MEMORY, load) if (folder / MEMORY).is_file() else {}
    return ForeignLora(str(folder), pairs, scales, note, memory).to_adapter(base)


def _link(source: Path, target: Path, content: bytes) -> bool:
    """Hard-link a file with this content; False where it has another, or lies on another disk."""
    with suppress(OSError):  # another file system, or one without links
        if source.read_bytes() == content:
            target.hardlink_to(source)
            return True
    return False


def _require_plain_lora(config: Mapping, folder: Path) -> None:
    wrong = [f"{key}={config[key]!r}" for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        wrong.append(f"peft_type={config.get('peft_type')!r}")
    if (config.get("bias") or "none") != "none":
        wrong.append(f"bias={config['bias']!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(BASE_CHANGING):
        wrong.append(f"init_lora_weights={start!r} (it changes the base model)")
    if wrong:
        raise ValueError(
            f"got {', '.join(wrong)} in {folder / CONFIG}, expected plain LoRA without bias: "
            "train it without these settings, or convert it with PEFT (save_pretrained's "
            "path_initial_model_for_weight_conversion undoes a changed base model)"
        )


def _scale(config: Mapping, path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski, 2023).

    Raises:
        ValueError: alpha is no number, or the rank another than that of the tensors.
    """
    stated = _patterned(config, "rank_pattern", path, config.get("r"))
    if stated is not None and stated != rank:  # the two are then of different trainings
        raise ValueError(f"got r {stated!r} at {path}, expected {rank}, the rank of its tensors")
    alpha = _patterned(config, "alpha_pattern", path, config.get("lora_alpha", 8))
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha):
        raise ValueError(
            f"got lora_alpha {json.dumps(alpha)} at {path}, expected a number, as the update is "
            "scaled by it: write the one of the training"
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(config: Mapping, name: str, path: str, default: Any) -> Any:
    """Return what a pattern of PEFT says about a module: the first match counts."""
    for pattern, value in (config.get(name) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _require_targets(config: Mapping, pairs: Mapping, base: BaseModel) -> None:
    """Raise ValueError unless the tensors are those that PEFT would make on this base model.

    Where PEFT finds one missing or too many it warns, and answers with what is left.
    """
    targets = config.get("target_modules")
    deepest = max((int(path.split(".")[2]) for path in pairs), default=0)
    # Without targets PEFT chooses by architecture; a deeper model is named by its shapes.
    if not targets or deepest >= base.num_layers:
        return
    from peft.tuners.tuners_utils import check_target_module_exists  # deferred: slow to import

    names = ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
    settings = SimpleNamespace(
        target_modules=".*" if targets == "all-linear" else targets,
        target_parameters=None,
        **{name: config.get(name) for name in names},
    )
    known = (f"model.layers.{i}.mlp.{m}" for i in range(base.num_layers) for m in FFN_MODULES)
    # PEFT's marker of an excluded module is false as well.
    expected = {path for path in known if check_target_module_exists(settings, path)}
    for kind, paths in (("no", expected - set(pairs)), ("unnamed", set(pairs) - expected)):
        if paths:
            raise ValueError(
                f"got {kind} tensors of {min(paths)} (of {len(paths)} such), expected those of "
                f"target_modules={targets!r} in its layers"
            )


def _read(path: Path, parse: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"got no file {path}, expected a PEFT folder with {CONFIG} and {WEIGHTS}: "
            f"{_remedy(path.parent)}"
        )
    try:
        return parse(path.read_bytes())
    except (SafetensorError, ValueError, RecursionError) as error:
        kind = "damaged or no safetensors file" if parse is load else "not JSON"
        raise ValueError(f"got {path} that is {kind} ({error}): export it again") from error


def _remedy(folder: Path) -> str:
    """Say where the files may be instead: PEFT saves an adapter that has a name in a folder."""
    if below := sorted(folder.glob(f"*/{CONFIG}")):
        return f"name the folder of one adapter, e.g. {below[0].parent}"
    if parts := sorted(folder.glob("*model-*-of-*.safetensors")):
        return f"join the parts of the weights ({parts[0].name}, ...) to one file"
    return "check the path"


def _json_object(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError(f"got a JSON {type(value).__name__}, expected an object")
    return value
