"""Modes: every way to answer a question, defined once.

closed_book      nothing but the question
in_context       retrieved passages in the prompt (standard RAG)
in_context_rows  the same, and what all generated adapters share attached: the answer's format
kv_cache         in_context of one passage, whose keys and values were kept: the same answers (see
                 `prag_core.model.prefix`)
reader           in_context with one adapter that was fine-tuned to answer from passages
da_rag           augmented passages in the prompt: text, rewrites and question-answer pairs
parametric       retrieved documents' adapters, merged and attached; no passage in the prompt
combine          adapters and passages
sft              one adapter trained on the whole corpus, whatever the question
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prag_core.pipeline.answers import AnswerOptions


@dataclass(frozen=True)
class Mode:
    """One way to answer.

    Attributes:
        name: as commands, files and the server call it.
        passages: what the prompt holds of the documents, beside the question.
        adapters: what is attached: the merged adapters of the question's `documents`, the rows
            that all documents' adapters share (`shared`), one adapter of the whole `corpus`, or
            that of the `reader`.
        kept: whether the keys and values of the passage are kept, and not computed again.
    """

    name: str
    passages: Literal["", "plain", "augmented"] = ""
    adapters: Literal["", "documents", "shared", "corpus", "reader"] = ""
    kept: bool = False

    @property
    def needs_documents(self) -> bool:
        """Whether a question is answered from documents of its own."""
        # Not `sft`: its adapter is the same whatever the question.
        return bool(self.passages) or self.needs_adapters

    @property
    def needs_adapters(self) -> bool:
        """Whether adapters of these documents are read."""
        return self.adapters in ("documents", "shared")

    @property
    def needs_parametrizer(self) -> bool:
        """Whether something is read that a parametrizer makes, or its augmenter."""
        return self.needs_adapters or self.adapters == "corpus" or self.passages == "augmented"


# In the order in which tables show them: from nothing but the question to the whole corpus.
MODES = {
    mode.name: mode
    for mode in (
        Mode("closed_book"),
        Mode("in_context", passages="plain"),
        Mode("in_context_rows", passages="plain", adapters="shared"),
        Mode("kv_cache", passages="plain", kept=True),
        Mode("reader", passages="plain", adapters="reader"),
        Mode("da_rag", passages="augmented"),
        Mode("parametric", adapters="documents"),
        Mode("combine", passages="plain", adapters="documents"),
        Mode("sft", adapters="corpus"),
    )
}


def find_mode(name: str) -> Mode:
    """Return a mode by its name; ValueError for another name."""
    if name not in MODES:
        raise ValueError(f"got mode {name!r}, expected one of {', '.join(MODES)}")
    return MODES[name]


def require_one_passage(mode: Mode, counts: Iterable[int]) -> None:
    """Raise ValueError for several documents where the keys and values of one are kept."""
    if mode.kept and (most := max(counts, default=0)) > 1:
        raise ValueError(
            f"got {most} documents for a question in mode {mode.name}, expected one, as several "
            "would have to be read together: set k to 1, or ask the condition kv_cache@1"
        )


def gates_passages(mode: Mode, options: AnswerOptions) -> bool:
    """Return whether a passage is shown only where its document's adapter responds."""
    return options.gated and bool(mode.passages) and options.least_relevance > 0
