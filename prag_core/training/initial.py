"""Shipped adapters: a name goes in, a warm-up to start from or a writer of questions comes out."""

from __future__ import annotations

import json
from pathlib import Path

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.peft_files import NOTE
from prag_core.formats.peft_folder import from_peft
from prag_core.model import checkpoints
from prag_core.model.base_model import BaseModel
from prag_core.training.options import AUTO_INIT

WARMUP, WRITER = "warmup", "writer"


def load_initial(name: str, base: BaseModel) -> Adapter | None:
    """Load a warm-up adapter; None where there is none.

    Args:
        name: PEFT folder, `auto` for the one that is shipped for the base model, or empty.
        base: base model.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`.
    """
    folder = shipped(base.fingerprint, WARMUP) if name == AUTO_INIT else name and Path(name)
    return from_peft(folder, base) if folder else None


def load_writer(name: str, base: BaseModel) -> Adapter:
    """Load the adapter that asks questions (`prag writer`); names as in `load_initial`.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`; or none is shipped.
    """
    folder = shipped(base.fingerprint, WRITER) if name == AUTO_INIT else name and Path(name)
    if not folder:
        raise ValueError(
            f"got augmentation.adapter {name!r}, expected a writer, and none is shipped for "
            f"{base.name}: train one with prag writer, and name its folder"
        )
    return from_peft(folder, base)


def shipped(fingerprint: str, kind: str) -> Path | None:
    """Return the folder NAME-KIND among the shipped checkpoints that is of a base model."""
    for note in sorted(checkpoints.SHIPPED.glob(f"*-{kind}/{NOTE}")):
        if json.loads(note.read_text(encoding="utf-8"))["spec"]["base_model"] == fingerprint:
            return note.parent
    return None
