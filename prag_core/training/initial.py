"""Initial adapters: a name goes in, the warm-up that documents start from comes out."""

from __future__ import annotations

import json
from pathlib import Path

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.peft_files import NOTE
from prag_core.formats.peft_folder import from_peft
from prag_core.model import checkpoints
from prag_core.model.base_model import BaseModel
from prag_core.training.options import AUTO_INIT


def load_initial(name: str, base: BaseModel) -> Adapter | None:
    """Load a warm-up adapter; None where there is none.

    Args:
        name: PEFT folder, `auto` for the one that is shipped for the base model, or empty.
        base: base model.

    Raises:
        FileNotFoundError, ValueError: see `from_peft`.
    """
    folder = shipped_warmup(base.fingerprint) if name == AUTO_INIT else name and Path(name)
    return from_peft(folder, base) if folder else None


def shipped_warmup(fingerprint: str) -> Path | None:
    """Return the folder NAME-warmup among the shipped checkpoints that is of a base model."""
    for note in sorted(checkpoints.SHIPPED.glob(f"*-warmup/{NOTE}")):
        if json.loads(note.read_text(encoding="utf-8"))["spec"]["base_model"] == fingerprint:
            return note.parent
    return None
