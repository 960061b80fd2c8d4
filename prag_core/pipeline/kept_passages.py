"""Kept passages: a document goes in, the keys and values of its passage come from the disk.

    KV/<document>-<hash>.safetensors    of one prompt's beginning, up to the question

The hash is of base model, dtype and wording. Tokens that a prompt does not begin with (a smaller
context cuts the passage, say) are not used of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class KeptPassages:
    """Keys and values of documents' passages.

    Attributes:
        base: base model.
        folder: of the files; None: nothing is kept, every passage is read each time.
        run: runs a function that uses the model, where another thread owns it.
    """

    base: BaseModel
    folder: Path | None
    run: Callable[[Callable[[], Any]], Any] = lambda work: work()

    def prefix(self, document: Document, wording: Wording, max_new_tokens: int = 0) -> Prefix:
        """Load what the prompts of a document begin with, or read and keep it.

        Args:
            document: the one passage.
            wording: of the prompt.
            max_new_tokens: that the context must have room for.
        """
        if self.folder is None:
            return self._read(document, wording, max_new_tokens)
        # Not of the tokens: what is kept already is found without writing a prompt.
        name = fingerprint([self.base.fingerprint, str(self.base.dtype), wording.id])
        path = self.folder / f"{document.id}-{name}.safetensors"
        if not path.exists():
            self._read(document, wording, max_new_tokens).save(path)
        return Prefix.load(path)  # always from the disk: what was made now is timed as the others

    def _read(self, document: Document, wording: Wording, max_new_tokens: int) -> Prefix:
        prompts = [
            fit_prompt(self.base, probe, [document], wording, max_new_tokens).text
            for probe in PROBES
        ]
        first, second = (prompt_ids(self.base.tokenizer, prompt) for prompt in prompts)
        ids = first[: common_start(first, second)]
        prefix: Prefix = self.run(lambda: read_prefix(self.base, ids))
        return prefix


def forget_passages(folder: Path, document_ids: Iterable[str]) -> None:
    """Delete what is kept of documents."""
    for document_id in document_ids:
        for path in folder.glob(f"{document_id}-*"):
            path.unlink(missing_ok=True)
