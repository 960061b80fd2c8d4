"""Published numbers: a cell goes in, what the paper reports for the same cell comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files

from prag_core.benchmark.options import SHARED, Group, last_part


def load_published() -> dict:
    """Load the published numbers, with their source and what they mean, from the package."""
    path = files("prag_core") / "resources" / "published.json"
    return json.loads(path.read_text(encoding="utf-8"))


def published_f1(published: Mapping, group: Group, sub_task: str, mode: str) -> float | None:
    """Return the published F1 of the same cell, or None.

    The same are question set and base model (by name), corpus, number of questions, sub-task,
    mode, retrieval and k; and modes with adapters must have trained ones.
    """
    if group.path not in (SHARED, "trained"):
        return None
    spec = group.spec
    own = {
        "question_set": group.spec.label.casefold(),
        "base_model": group.model.label.casefold(),
        "sub_task": sub_task,
        "mode": mode,
    }
    setting = {
        "retrieval": spec.retrieval,
        "k": spec.k,
        "corpus": last_part(spec.corpus),
        "questions": min(spec.first or spec.per_type, group.limit or spec.first or spec.per_type),
    }
    if setting != published["setting"]:
        return None
    for cell in published["cells"]:
        name = {**cell, "base_model": cell["base_model"].casefold()}
        if all(name[key] == value for key, value in own.items()):
            return cell["f1"]
    return None
