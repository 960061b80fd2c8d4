"""Shipped adapters: a name goes in; a warm-up to start from, a reader or a writer comes out."""

from __future__ import annotations

import json
from pathlib import Path

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.peft_files import NOTE
from prag_core.formats.peft_folder import from_peft
from prag_core.model import checkpoints
from prag_core.model.base_model import BaseModel
from prag_core.training.options import AUTO_INIT

WARMUP, READER, WRITER = "warmup", "reader", "writer"


def load_adapter(name: str, base: BaseModel, kind: str) -> Adapter | None:
    """Load an adapter; None where there is none.

    Args:
        name: PEFT folder, `auto` for the one that is shipped for the base model, or empty.
        base: base model.
        kind: WARMUP, READER or WRITER.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`.
    """
    folder = adapter_folder(name, base, kind)
    return from_peft(folder, base) if folder else None


def load_reader(name: str, base: BaseModel) -> Adapter | None:
    """Load the adapter that answers from passages (`prag reader`); as `load_adapter`.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`; or `auto`, and none is shipped.
    """
    reader = load_adapter(name, base, READER)
    if name and not reader:
        raise ValueError(
            f"got reader {name!r}, and none is shipped for {base.name}, expected the folder of "
            "one: train it with prag reader"
        )
    return reader


def load_writer(name: str, base: BaseModel) -> Adapter:
    """Load the adapter that asks questions (`prag writer`); names as in `load_adapter`.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`; or none is shipped.
    """
    writer = load_adapter(name, base, WRITER)
    if not writer:
        raise ValueError(
            f"got augmentation.adapter {name!r}, expected a writer, and none is shipped for "
            f"{base.name}: train one with prag writer, and name its folder"
        )
    return writer


def adapter_folder(name: str, base: BaseModel, kind: str) -> Path | None:
    """Return the folder that a name stands for; None where there is none."""
    if name == AUTO_INIT:
        return shipped(base.fingerprint, kind)
    return Path(name) if name else None


def shipped(fingerprint: str, kind: str) -> Path | None:
    """Return the folder NAME-KIND among the shipped checkpoints that is of a base model."""
    for note in sorted(checkpoints.SHIPPED.glob(f"*-{kind}/{NOTE}")):
        if json.loads(note.read_text(encoding="utf-8"))["spec"]["base_model"] == fingerprint:
            return note.parent
    return None
