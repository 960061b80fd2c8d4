"""Span augmentation: question-answer pairs and rewrites on documents, by rule, without a model.

A small model that is asked freely for pairs writes poor ones, and so it does for one question to a
given answer. Here spans are chosen by rules (answer_spans.py) and the sentence itself becomes the
question (rule_questions.py). Where the rules have none, the question is a sentence with a gap. So
every pair is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.answer_spans import AnswerSpan, choose_spans, split_sentences
from prag_core.augmentation.augmented import AugmentedDocument, QAPair, check_counts, titled
from prag_core.augmentation.rule_questions import replace_pronoun, rule_question
from prag_core.corpus.documents import Document

BLANK = "____"
CLOZE = "Which words are missing here: {sentence}"
# Of the rules below and in answer_spans.py and rule_questions.py. It is part of the fingerprint:
# whoever changes a rule raises it, so that adapters of the old rules are not taken for new ones.
VERSION = 3
GAP_WORDS = 14  # words on either side of a gap; more would give away what the question is about


class SpanAugmenter:
    """Make m question-answer pairs and n rewrites a document; the same every time."""

    def __init__(self, rewrites: int = 1, qa_pairs: int = 3) -> None:
        """Choose how many.

        Args:
            rewrites: n, rewrites a document (`rule_rewrite`).
            qa_pairs: m, question-answer pairs a document, at most.

        Raises:
            ValueError: a number below 0.
        """
        check_counts(rewrites, qa_pairs)
        self.rewrites, self.qa_pairs = rewrites, qa_pairs
        self.fingerprint = fingerprint(["span", VERSION, rewrites, qa_pairs, CLOZE])

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document; `error` says where it has fewer spans than pairs asked for."""
        augmented = []
        for document in documents:
            pairs = tuple(choose_pairs(document, self.qa_pairs))
            rewrites = tuple(rule_rewrite(document, number) for number in range(self.rewrites))
            short = len(pairs) < self.qa_pairs
            error = f"got {len(pairs)} answer spans in the text, expected {self.qa_pairs}"
            augmented.append(AugmentedDocument(document, rewrites, pairs, error if short else ""))
        return augmented


def choose_pairs(document: Document, count: int) -> list[QAPair]:
    """Make `count` pairs by rule, with distinct questions, spread over the document.

    Sentences with a gap come last, where there are too few other questions.
    """
    pairs: dict[str, QAPair] = {}
    # Far more spans than pairs: the rules make a proper question of about every third.
    for question, span in _questions(document, choose_spans(document, 3 * count + 4)):
        if len(pairs) == count:
            break
        pairs.setdefault(question.lower(), QAPair(question, span.text))
    return list(pairs.values())


def _questions(document: Document, spans: Sequence[AnswerSpan]) -> Iterator[tuple[str, AnswerSpan]]:
    unasked = []
    for span in spans:
        if question := rule_question(span, document.title):
            yield question, span
        else:
            unasked.append(span)
    for span in unasked:
        before = span.sentence[: span.start].split()[-GAP_WORDS:]
        # Split at spaces alone: the first part may be a comma that belongs to the gap's word.
        after = span.sentence[span.start + len(span.text) :].split(" ")[: GAP_WORDS + 1]
        gap = " ".join([*before, BLANK + after[0], *after[1:]])
        yield CLOZE.format(sentence=titled(document.title, gap)), span


def rule_rewrite(document: Document, number: int = 0) -> str:
    """Rewrite without a model: sentences in another order, their opening pronouns named.

    Each sentence then stands alone, so that its facts are met in a new context.
    """
    sentences = [replace_pronoun(s, document.title) for s in split_sentences(document.text)]
    # Turned by half first, so that the first rewrite differs most from the text.
    turn = (number + (len(sentences) + 1) // 2) % max(1, len(sentences))
    return " ".join(sentences[turn:] + sentences[:turn])
