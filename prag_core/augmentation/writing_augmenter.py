"""Writing augmenter: a model's questions and rewrites, with what the rules make, as one document.

    document -> rules (`SpanAugmenter`) + questions in every kind (`QuestionWriter`) + rewrites
                + facts (`write_facts`), with questions on each by rule
             -> asked with the passage -> what the model answers right is kept

The model's questions are in other words than the text, which is how people ask; the rules' are true
by construction and fill up what the model leaves. A fact is kept where a question on it is, whether
or not that is among the first `qa_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.augmented import AugmentedDocument, QAPair, add_pairs, check_counts
from prag_core.augmentation.fact_writer import facts_fingerprint, write_facts
from prag_core.augmentation.question_options import KINDS
from prag_core.augmentation.question_writer import QuestionWriter
from prag_core.augmentation.reading_check import CHECK_VERSION, answered_alike
from prag_core.augmentation.self_augmenter import REWRITE, ask_rewrites
from prag_core.augmentation.self_augmenter import VERSION as REWRITE_VERSION
from prag_core.augmentation.span_augmenter import SpanAugmenter, ask_about
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel
from prag_core.model.wordings import reading_wording

QUESTION_TOKENS = 32
FACT_QUESTIONS = 4  # on a fact, at most


class WritingAugmenter:
    """Let a model and rules write about documents.

    Args:
        base: the model that writes and checks; it need not be the one that the adapters are for.
        rewrites: rewrites a document, by the model.
        qa_pairs: question-answer pairs a document, at most: the model's first, then those on its
            facts, then those by rule.
        facts: let the model write them, and take the text apart by rule (see `SpanAugmenter`).
        batch_size: documents asked about together.

    Raises:
        ValueError: a number below 0.
    """

    def __init__(
        self, base: BaseModel, rewrites: int, qa_pairs: int, facts: bool, batch_size: int = 16
    ) -> None:
        check_counts(rewrites, qa_pairs)
        self.base, self.rewrites, self.qa_pairs = base, rewrites, qa_pairs
        self.rules, self.batch_size = SpanAugmenter(0, qa_pairs, facts), batch_size
        each = max(1, -(-qa_pairs // len(KINDS)))  # rounded up: checks drop some
        self.writers = [
            QuestionWriter(base, each, (kind,), QUESTION_TOKENS, batch_size) for kind in KINDS
        ]
        self.fingerprint = fingerprint(
            ["writing", CHECK_VERSION, rewrites, qa_pairs, self.rules.fingerprint]
            + [asdict(reading_wording(base.fingerprint))]  # what pairs are checked by reading in
            + [writer.fingerprint for writer in self.writers]
            + ([FACT_QUESTIONS, *facts_fingerprint(base)] if facts else [])
            + ([REWRITE, REWRITE_VERSION] if rewrites else [])
        )

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document, in order; `error` says where pairs or rewrites are missing."""
        rows: list[tuple[QAPair, ...]] = [()] * len(documents)
        for writer in self.writers if self.qa_pairs else ():
            for row, questions in enumerate(writer.write(documents)):
                pairs = [QAPair(q.question, q.answer) for q in questions if not q.problem]
                rows[row] = add_pairs(rows[row], pairs)
        asked = self._asked_facts(documents)
        # Equal questions with other answers stay: which is right is seen by reading.
        rows = [
            tuple(dict.fromkeys((*pairs, *chain(*of.values()))))
            for pairs, of in zip(rows, asked, strict=True)
        ]
        rewrites = ask_rewrites(self.base, documents, self.rewrites, self.batch_size)
        checked = answered_alike(self.base, documents, rows, batch_size=2 * self.batch_size)
        augmented = []
        columns = self.rules.augment(documents), checked, rewrites, asked
        for ruled, pairs, texts, of in zip(*columns, strict=True):
            facts = [fact for fact, questions in of.items() if {*questions} & {*pairs}]
            pairs = add_pairs(pairs, ruled.qa_pairs)[: self.qa_pairs]
            kept = tuple(filter(None, texts))
            missing = {
                f"got {len(pairs)} question-answer pairs, expected {self.qa_pairs}": (
                    len(pairs) < self.qa_pairs
                ),
                "got no rewrite that keeps the facts": len(kept) < self.rewrites,
            }
            error = "; ".join(text for text, is_so in missing.items() if is_so)
            facts = tuple(dict.fromkeys((*facts, *ruled.facts)))
            augmented.append(
                replace(ruled, rewrites=kept, qa_pairs=pairs, error=error, facts=facts)
            )
        return augmented

    def _asked_facts(self, documents: Sequence[Document]) -> list[dict[str, list[QAPair]]]:
        """Return the facts that the model wrote about each document, with questions on each."""
        if not self.rules.facts:
            return [{} for _ in documents]
        return [
            {fact: ask_about(fact, document.title, FACT_QUESTIONS) for fact in facts}
            for document, facts in zip(
                documents, write_facts(self.base, documents, 2 * self.batch_size), strict=True
            )
        ]
