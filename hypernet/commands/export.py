"""Export: a training checkpoint goes in, a folder that the generated path loads comes out."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch

from hypernet.network.checkpoint import check_tensors, network_config, save_checkpoint
from hypernet.network.config import NetworkConfig
from hypernet.network.heads import build_head
from prag_core.model.base_model import BaseModel, load_base_model


def export(checkpoint: str, folder: str, base_model: str = "") -> None:
    """Write config.json and model.safetensors from a training checkpoint.

    Args:
        checkpoint: .ckpt file of `fit`.
        folder: where to write.
        base_model: where the base model lies, if not where it lay in training.
    """
    record, config = _read_checkpoint(checkpoint)
    base = _load_base(checkpoint, record, base_model)
    # The head is built to check names and shapes: a folder that cannot be loaded is not written.
    head = build_head(config, *base.module_shape("down_proj"))
    tensors = {key.removeprefix("network."): v for key, v in record["state_dict"].items()}
    check_tensors(checkpoint, tensors, head.state_dict())
    head.load_state_dict(tensors)
    training = {"steps": record["global_step"], "prompt": record.get("prompt", "")}
    training["held_out"] = record.get("held_out", [])
    save_checkpoint(folder, head, config, base, training)
    print(f"wrote {folder}")


def _read_checkpoint(checkpoint: str) -> tuple[dict, NetworkConfig]:
    """Return what `HypernetModule` saved, and the size of the network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that `fit` did not write.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"got no file at {checkpoint}, expected a .ckpt file of `fit`")
    try:
        # weights_only: a .ckpt is a pickle, and may be somebody else's.
        record = torch.load(checkpoint, map_location="cpu", weights_only=True)
        config = network_config(checkpoint, record["network_config"])
        missing = {"state_dict", "base_fingerprint", "global_step"} - record.keys()
        if missing:
            raise KeyError(*sorted(missing))
    except (UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"got {checkpoint}, which cannot be read ({type(error).__name__}: {reason}), expected "
            "a .ckpt file of `hypernet fit`: name another, e.g. the best beside last.ckpt"
        ) from error
    return record, config


def _load_base(checkpoint: str, record: dict, name: str) -> BaseModel:
    """Load the base model that a checkpoint was trained on.

    Raises:
        ValueError: another model, or a checkpoint that does not name its own.
    """
    name, fingerprint = name or record.get("base_model", ""), record["base_fingerprint"]
    if not name:
        raise ValueError(
            f"got {checkpoint}, which does not name its base model ({fingerprint}), expected its "
            "name: set --base_model"
        )
    base = load_base_model(name, device="cpu")  # for its shapes and its fingerprint
    if base.fingerprint != fingerprint:
        raise ValueError(
            f"got base model {name} ({base.fingerprint}), expected the one that {checkpoint} was "
            f"trained on ({fingerprint}): name it in --base_model"
        )
    return base
