"""Kept passages: a document goes in, the keys and values of its passage come from the disk.

    KV/<document>-<hash>.safetensors    of one prompt's beginning, up to the question

The hash is of base model, dtype and wording. Tokens that a prompt does not begin with (a smaller
context cuts the passage, say) are not used of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel
from prag_core.model.fitting import fit_prompt
from prag_core.model.prefix import Prefix, common_start, read_prefix
from prag_core.model.prompts import prompt_ids
from prag_core.model.wordings import Wording

KV = "kv"
# Two that begin differently in every vocabulary: what their prompts share is the passage's.
PROBES = ("0", "Which")


def kept_prefix(
    base: BaseModel,
    folder: Path | None,
    document: Document,
    wording: Wording,
    max_new_tokens: int,
    run: Callable[[Callable[[], Any]], Any],
) -> Prefix:
    """Load what the prompts of a document begin with, or read and keep it.

    Args:
        base: base model.
        folder: of the files; None: nothing is kept, every passage is read each time.
        document: the one passage.
        wording: of the prompt.
        max_new_tokens: that the context must have room for.
        run: runs a function that uses the model, where another thread owns it.
    """
    path = None
    if folder is not None:
        # Not of the tokens: what is kept already is found without writing a prompt.
        name = fingerprint([base.fingerprint, str(base.dtype), wording.id])
        path = folder / f"{document.id}-{name}.safetensors"
    if path is None or not path.exists():
        prompts = [fit_prompt(base, p, [document], wording, max_new_tokens).text for p in PROBES]
        first, second = (prompt_ids(base.tokenizer, prompt) for prompt in prompts)
        ids = first[: common_start(first, second)]
        prefix: Prefix = run(lambda: read_prefix(base, ids))
        if path is None:
            return prefix
        prefix.save(path)
    return Prefix.load(path)  # always from the disk: what was made now is timed as the others


def forget_passages(folder: Path, document_ids: Iterable[str]) -> None:
    """Delete what is kept of documents."""
    for document_id in document_ids:
        for path in folder.glob(f"{document_id}-*"):
            path.unlink(missing_ok=True)
