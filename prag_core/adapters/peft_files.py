"""One adapter as files: an Adapter goes in, bytes by file name come out.

`adapter_model.safetensors` and `adapter_config.json` are stock PEFT; `memory.safetensors`, where
the adapter has a ridge memory or shared rows, lies beside them and other programs ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from prag_core.adapters.adapter import Adapter, memory_state_dict, peft_state_dict

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
NOTE, MEMORY = "prag_adapter.json", "memory.safetensors"


def adapter_files(adapter: Adapter, base_model_name: str) -> dict[str, bytes]:
    """Return weights, PEFT's configuration and, where there is one, the memory.

    Args:
        adapter: equal adapters give equal bytes.
        base_model_name: what the configuration calls the base model.
    """
    files = {
        WEIGHTS: save(peft_state_dict(adapter), metadata={"format": "pt"}),
        CONFIG: json_bytes(peft_config(adapter, base_model_name)),
    }
    if memory := memory_state_dict(adapter):
        files[MEMORY] = save(memory)
    return files


def peft_config(adapter: Adapter, base_model_name: str) -> dict[str, Any]:
    """Settings of PEFT's LoraConfig; the rank is the tensors' own, and the scale the spec's."""
    name, revision = split_revision(base_model_name)
    scale, rank = adapter.spec.scale, adapter.rank
    ranks = {path: a.shape[0] for path, (a, _) in adapter.tensors.items() if a.shape[0] != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        **({"revision": revision} if revision else {}),
        "r": rank,
        "lora_alpha": _number(scale * rank),
        "lora_dropout": 0.0,
        "target_modules": sorted(adapter.spec.modules),
        "layers_to_transform": list(adapter.spec.layers),
        "rank_pattern": ranks,  # the modules whose rank is not r
        # PEFT divides by the module's own rank, so that alpha follows it: one scale for all.
        "alpha_pattern": {path: _number(scale * r) for path, r in ranks.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def split_revision(name: str) -> tuple[str, str]:
    """Split a hub name, `org/name@v1`, into name and revision; "" without one, and of a path."""
    source, _, revision = name.rpartition("@")
    is_path = name.startswith((".", "~")) or Path(name).is_absolute() or Path(name).exists()
    return (source, revision) if source and not is_path else (name, "")


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Write JSON for people: indented, keys in order."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value
