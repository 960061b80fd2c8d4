"""Answers: how a question is asked, and the record that comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

from prag_core.adapters.names import METHODS, WEIGHTINGS
from prag_core.model.wordings import Wording, find_wording

AUTO = "auto"
ABSTENTION = "I do not know."  # in place of an answer, where no document matches


@dataclass(frozen=True)
class Source:
    """A document that an answer was made from.

    Attributes:
        document_id: its id.
        score: of the retriever, or given with the document.
        weight: of its adapter in the merge; 0 where the adapter took no part but the text was read
            (`combine`), None where the mode attaches no document's adapter.
        bytes: what is kept of it for answers, such as its adapter; None where nothing is.
    """

    document_id: str
    score: float  # higher is better
    weight: float | None = None
    bytes: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Answer:
    """One answered question, and what the answer was made from.

    Attributes:
        question: as it was asked.
        text: the answer.
        mode: name of the mode (see `modes`).
        documents: whose adapters, passages or both were used. One that was found but took no part
            (below `least_relevance`, or of weight 0, and not read) is none of them; an abstention
            is made from none.
        path: who made the adapters (`trained`, `generated`, ...); "" without any.
        prompt: id of the prompt (see `prompts.prompt_id`).
        notes: what a reader of the answer must know, in sentences: what was cut of the prompt, why
            it abstains, or why there is no answer (then the text is empty).
    """

    question: str
    text: str
    mode: str
    documents: tuple[Source, ...] = ()
    # Both tell answers of one question apart that were made in different ways.
    path: str = ""
    prompt: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerOptions:
    """How questions become prompts and adapters are merged.

    Attributes:
        prompt: name of a wording (see `prag_core.model.wordings`), or one of your own; `auto`:
            with adapters the one that they were made for, else the one that the base model reads
            best with.
        merge_weights: `relative` (to the best retrieval score), `ones` (paper), `mean` or
            `score` (see `prag_core.adapters.merge.merge_weights`).
        least_relevance: generated adapters that respond less to a question are left out (see
            `prag_core.pipeline.relevance`; without any left it answers as closed_book). 0: none is.
        focus: what a sentence of a generated adapter loses that does not respond to the question,
            in [0, 1] (see `prag_core.pipeline.relevance.focused`). 0: all sentences count alike.
        merge_method: `auto` (ridge memories are solved again together) or `concatenate`.
        rank: adapters are cut to so many rows a module before they are merged; 0: not.
        gated: passages of documents that `least_relevance` leaves out are not shown either.
        abstain: in the modes that need documents, a question that none matches (retrieval finds
            none, or `least_relevance` leaves none) is answered "I do not know." in place of what
            closed_book says.
    """

    prompt: str | Wording = "auto"
    merge_weights: str = "relative"
    least_relevance: float = 0.0
    focus: float = 0.0
    merge_method: str = "auto"
    rank: int = 0
    gated: bool = False
    abstain: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown prompt, weighting or method, or a number out of range."""
        if self.prompt != AUTO:
            find_wording(self.prompt)
        if self.merge_weights not in WEIGHTINGS or self.merge_method not in METHODS:
            raise ValueError(
                f"got merge_weights {self.merge_weights!r} and merge_method "
                f"{self.merge_method!r}, expected {' or '.join(WEIGHTINGS)}, and "
                f"{' or '.join(METHODS)}: correct them"
            )
        if self.rank < 0 or not self.least_relevance >= 0:
            raise ValueError(
                f"got rank {self.rank} and least_relevance {self.least_relevance}, expected 0 "
                "(off) or more: correct them"
            )
        if not 0 <= self.focus <= 1:
            raise ValueError(f"got focus {self.focus}, expected 0 (off) to 1: correct it")
