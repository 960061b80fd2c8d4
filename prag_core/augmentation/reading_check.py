"""Check by reading: question-answer pairs go in; those that a reading model answers alike stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prag_core.adapters.adapter import Adapter
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.question_writer import is_right
from prag_core.corpus.documents import Document
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.fitting import fit_prompt
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import kept_prefix
from prag_core.model.wordings import find_wording, reading_wording, without_date

ANSWER_TOKENS = 24
CHECK_VERSION = 1  # part of augmenters' fingerprints


def answered_alike(
    base: BaseModel,
    documents: Sequence[Document],
    rows: Sequence[Sequence[QAPair]],
    reader: Adapter | None = None,
    batch_size: int = 32,
) -> list[list[QAPair]]:
    """Keep the pairs that the model answers right with the passage in the prompt.

    What the context has no room for goes: the passage's end, and a question that is too long alone.

    Args:
        base: the model that reads.
        documents: what it reads.
        rows: pairs on each.
        reader: its adapter (`prag reader`), which is asked as it was trained; None: the bare model.
        batch_size: questions answered together.
    """

    def run(work: Callable[[], Any]) -> Any:
        with attached(base, reader):
            return work()

    options = GenerationOptions(ANSWER_TOKENS, batch_size=batch_size)
    wording = reading_wording(base.fingerprint)
    if reader and (asked := reader.metadata.get("prompt")):
        wording = find_wording(without_date(asked))
    kept = []
    for document, pairs in zip(documents, rows, strict=True):
        fitted = [
            (pair, fit_prompt(base, pair.question, [document], wording, ANSWER_TOKENS))
            for pair in pairs
        ]
        pairs = [pair for pair, prompt in fitted if not prompt.error]
        prompts = [prompt.text for _, prompt in fitted if not prompt.error]
        # The passage is read once for all questions on it.
        known = kept_prefix(base, None, document, wording, ANSWER_TOKENS, run) if pairs else None
        texts = generate(base, prompts, reader, options, [known] * len(prompts))
        checked = zip(pairs, texts, strict=True)
        kept.append([p for p, text in checked if is_right(wording.answer(text), p.answer)])
    return kept
