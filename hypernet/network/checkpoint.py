"""Checkpoints of a trained network: a folder with config.json and model.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from hypernet.network.config import NetworkConfig
from hypernet.network.heads import build_head
from prag_core.files import write_json, write_whole
from prag_core.model.base_model import BaseModel
from prag_core.model.checkpoints import SHIPPED, local_place

VERSION = 1  # of config.json's fields and the tensors' names
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A network on its base model.

    Attributes:
        network: the head, with its weights, in evaluation mode.
        config: its size.
        hash: identifies weights and config (16 hex digits).
        training: what it was trained with: steps, base model, prompt, last validation.
    """

    network: nn.Module
    config: NetworkConfig
    hash: str
    training: Mapping[str, object]

    @property
    def prompt(self) -> str:
        """Id of the prompt that it was trained for; empty where its files name none."""
        return str(self.training.get("prompt", ""))


def save_checkpoint(
    folder: str | Path,
    network: nn.Module,
    config: NetworkConfig,
    base: BaseModel,
    training: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write config.json and model.safetensors; scalars per layer stay in float32.

    `training` is kept as a note; `prompt` in it is the id of the prompt that it was trained for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Matrices carry the size; a rounded lambda or scale would shift a whole layer.
    tensors = {
        key: (value.to(dtype) if value.ndim > 1 else value.float()).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    record = {
        "version": VERSION,
        "base_model": base.name,
        "base_fingerprint": base.fingerprint,
        "network": asdict(config),
        "training": dict(training or {}),
    }
    # A reader meets the old file or the new one, never half of it. save_file: for one user alone.
    write_whole(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG, record)
    return folder


def load_checkpoint(name: str | Path, base: BaseModel) -> Checkpoint:
    """Load a network for a base model.

    Args:
        name: a name in the shipped `checkpoints/`, a local folder, or a hub name; `auto`: the
            shipped one of this base model.
        base: the base model it must have been trained on.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: another base model, version or head, or missing or foreign tensors.
    """
    folder = _shipped(base) if name == "auto" else find_checkpoint(name)
    record = _read_config(folder)
    if record["base_fingerprint"] != base.fingerprint:
        raise ValueError(
            f"got a checkpoint for base model {record['base_model']!r} "
            f"({record['base_fingerprint']}), expected one for {base.name!r} "
            f"({base.fingerprint}): train adapters on this one with `--path trained`, load its "
            "base model, or train a checkpoint with `python -m hypernet fit --model.base_model ...`"
        )
    config = network_config(folder / CONFIG, record["network"])
    inputs, hidden = base.module_shape("down_proj")  # I, H
    network = build_head(config, inputs, hidden)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"got a damaged {folder / WEIGHTS} ({error}), expected safetensors: copy or export the "
            "checkpoint again"
        ) from error
    check_tensors(folder / WEIGHTS, tensors, network.state_dict())
    # Stored in bfloat16; the closed form of the ridge head wants float32.
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    network.requires_grad_(False).eval().to(base.device)
    return Checkpoint(network, config, _hash(folder), record.get("training", {}))


def continued(source: str, config: NetworkConfig, base: BaseModel) -> Checkpoint:
    """Return a network of these settings with a checkpoint's weights, to train on.

    Settings that are None are the checkpoint's. Only a background, salience and learned keys may be
    new: the first is set at the start of the training, the others change nothing until trained.

    Raises:
        ValueError: other settings than the checkpoint's, and as `load_checkpoint`.
    """
    checkpoint = load_checkpoint(source, base)
    settings = checkpoint.config
    unset = [name for name, value in asdict(config).items() if value is None]
    config = replace(config, **{name: getattr(settings, name) for name in unset})
    if not settings.background:
        new = {name: getattr(config, name) for name in ("background", "background_weight")}
        settings = replace(settings, **new)
    settings = replace(
        settings,
        salience=settings.salience or config.salience,
        key_rank=settings.key_rank or config.key_rank,
    )
    if settings != config:
        raise ValueError(
            f"got network settings {config}, expected those of {source}, {checkpoint.config}: "
            "correct model.network, or leave out model.weights"
        )
    network = build_head(config, *base.module_shape("down_proj"))
    # Not strict: what is new has no weights in the checkpoint.
    network.load_state_dict(checkpoint.network.state_dict(), strict=False)
    return replace(checkpoint, network=network.to(base.device), config=config)


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a checkpoint; fetch it from the hub where it is not local.

    Raises:
        FileNotFoundError: neither shipped, nor a folder, nor on the hub.
    """
    folder = local_place(name)
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return folder
    if str(name).count("/") == 1 and not Path(name).parent.is_dir():  # owner/name
        from huggingface_hub import snapshot_download  # slow to import, and only needed here
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS]))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = f" (hub: {str(error).splitlines()[0]})"
    else:
        reason = ""
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
    raise FileNotFoundError(
        f"got no checkpoint at {name}{reason}, expected a folder with {CONFIG} and {WEIGHTS}, a "
        f"hub name, or one of {shipped}"
    )


def _shipped(base: BaseModel) -> Path:
    """Return the folder of the shipped checkpoint that was trained on a base model."""
    for path in sorted(SHIPPED.glob(f"*/{CONFIG}")):
        if _read_config(path.parent)["base_fingerprint"] == base.fingerprint:
            return path.parent
    raise FileNotFoundError(
        f"got base model {base.name!r} ({base.fingerprint}), for which no hypernetwork is shipped, "
        "expected a checkpoint: name one with --hypernet, train one with `hypernet fit --config "
        "configs/hypernet.yaml --model.base_model ...`, or train adapters with `--path trained`"
    )


def _read_config(folder: Path) -> dict:
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"got a damaged {folder / CONFIG} ({error}), expected JSON") from error
    # A list or a text is JSON, too.
    version = record.get("version") if isinstance(record, dict) else None
    if version != VERSION:
        raise ValueError(
            f"got version {version} in {folder / CONFIG}, expected {VERSION}: "
            "export the checkpoint again with this program"
        )
    if missing := sorted({"base_model", "base_fingerprint", "network"} - record.keys()):
        raise ValueError(
            f"got no {missing} in {folder / CONFIG}, expected them: export the checkpoint again"
        )
    return record


def network_config(source: Path | str, fields: Mapping) -> NetworkConfig:
    """Return the size of a network that a file describes.

    Raises:
        ValueError: fields that it does not have, or no layers.
    """
    # Not by TypeError: a file of another version is an edge, and says what to do.
    unknown = sorted(set(fields) - set(NetworkConfig.__dataclass_fields__))
    if unknown or "layers" not in fields:
        wrong = f"unknown network settings {unknown}" if unknown else "no layers"
        raise ValueError(
            f"got {wrong} in {source}, expected layers and a choice of "
            f"{list(NetworkConfig.__dataclass_fields__)}: use the program that wrote it"
        )
    return NetworkConfig(**{**fields, "layers": tuple(fields["layers"])})


def check_tensors(source: Path | str, tensors: Mapping, expected: Mapping) -> None:
    """Raise ValueError where tensors are missing, foreign or of another shape."""
    wrong = sorted(set(tensors) ^ set(expected))
    wrong += [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    if wrong:
        raise ValueError(
            f"got missing, foreign or misshapen tensors {wrong[:3]} in {source}, expected the "
            f"{len(expected)} tensors of its configuration: the two do not belong together; "
            "export or train the checkpoint again"
        )


def _hash(folder: Path) -> str:
    # Of the files, not of the loaded tensors: it is part of every store key, and cheap to repeat.
    digest = hashlib.blake2b((folder / WEIGHTS).read_bytes(), digest_size=8)
    digest.update((folder / CONFIG).read_bytes())
    return digest.hexdigest()
