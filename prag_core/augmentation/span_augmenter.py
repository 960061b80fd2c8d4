"""Span augmentation: question-answer pairs and rewrites on documents, by rule, without a model.

A small model that is asked freely for pairs writes poor ones, and so it does for one question to a
given answer. Here spans are chosen by rules (answer_spans.py) and the sentence itself becomes the
question (rule_questions.py). Where the rules have none, the question is a sentence with a gap. So
every pair is true.
"""

from __future__ import annotations

from collections.abc import Sequence

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.answer_spans import AnswerSpan, choose_spans, split_sentences
from prag_core.augmentation.augmented import (
    AugmentedDocument,
    QAPair,
    add_pairs,
    check_counts,
    titled,
)
from prag_core.augmentation.facts import atomic_facts, is_about, name_subjects
from prag_core.augmentation.relations import find_facts
from prag_core.augmentation.rule_questions import rule_question
from prag_core.corpus.documents import Document

BLANK = "____"
CLOZE = "Which words are missing here: {sentence}"
# Of the rules below and in answer_spans.py, rule_questions.py, relations.py and facts.py. Part of
# the fingerprint: whoever changes a rule raises it, so that adapters of the old rules are not taken
# for new ones.
VERSION = 5
GAP_WORDS = 14  # words on either side of a gap; more would give away what the question is about


class SpanAugmenter:
    """Make m question-answer pairs and n rewrites a document; the same every time."""

    def __init__(self, rewrites: int = 1, qa_pairs: int = 3, facts: bool = False) -> None:
        """Choose how many.

        Args:
            rewrites: n, rewrites a document (`rule_rewrite`).
            qa_pairs: m, question-answer pairs a document, at most.
            facts: take the text apart into facts (`atomic_facts`), and ask about them, too.

        Raises:
            ValueError: a number below 0.
        """
        check_counts(rewrites, qa_pairs)
        self.rewrites, self.qa_pairs, self.facts = rewrites, qa_pairs, facts
        self.fingerprint = fingerprint(["span", VERSION, rewrites, qa_pairs, facts, CLOZE])

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document; `error` says where it has fewer spans than pairs asked for."""
        augmented = []
        for document in documents:
            facts = tuple(atomic_facts(document)) if self.facts else ()
            pairs = tuple(choose_pairs(document, self.qa_pairs, facts))
            rewrites = tuple(rule_rewrite(document, number) for number in range(self.rewrites))
            short = len(pairs) < self.qa_pairs
            error = f"got {len(pairs)} answer spans in the text, expected {self.qa_pairs}"
            error = error if short else ""
            augmented.append(AugmentedDocument(document, rewrites, pairs, error, facts))
        return augmented


def choose_pairs(document: Document, count: int, facts: Sequence[str] = ()) -> list[QAPair]:
    """Make `count` pairs by rule, with distinct questions, spread over the document.

    First those on the text, then those on its facts, then, in other words, those on what a fact
    says of the title (`relations`). Sentences with a gap come last, where there are too few other
    questions.
    """
    # Far more spans than pairs: the rules make a proper question of about every third.
    spans = choose_spans(document, 3 * count + 4)
    proper, gaps = _questions(spans, document)
    pairs = [*proper, *ask_about(" ".join(facts), document.title, 3 * count + 4)]
    for fact in facts:
        if is_about(fact, document):
            asked = find_facts(document, fact)
            pairs += [QAPair(way, said) for ways, said in asked for way in ways]
    return list(add_pairs(pairs, gaps)[:count])


def ask_about(text: str, title: str, spans: int) -> list[QAPair]:
    """Make the proper questions for that many spans of a text, at most, that is about a title."""
    document = Document(text, title)
    return _questions(choose_spans(document, spans), document)[0]


def _questions(
    spans: Sequence[AnswerSpan], document: Document
) -> tuple[list[QAPair], list[QAPair]]:
    """Return the proper questions for spans, and sentences with a gap for those without one."""
    proper, gaps, title = [], [], document.title
    sentences = split_sentences(document.text)
    subjects = zip(sentences, name_subjects(sentences, document), strict=True)
    known = {sentence: is_known for sentence, (_, is_known) in subjects}
    for span in spans:
        # Nobody is asked about an "It" that may be something else.
        asked = known[span.sentence] or not title
        if asked and (question := rule_question(span, title)):
            proper.append(QAPair(question, span.text))
            continue
        before = span.sentence[: span.start].split()[-GAP_WORDS:]
        # Split at spaces alone: the first part may be a comma that belongs to the gap's word.
        after = span.sentence[span.start + len(span.text) :].split(" ")[: GAP_WORDS + 1]
        gap = " ".join([*before, BLANK + after[0], *after[1:]])
        gaps.append(QAPair(CLOZE.format(sentence=titled(title, gap)), span.text))
    return proper, gaps


def rule_rewrite(document: Document, number: int = 0) -> str:
    """Rewrite without a model: sentences in another order, their subjects named.

    Each sentence then stands alone, so that its facts are met in a new context.
    """
    sentences = [named for named, _ in name_subjects(split_sentences(document.text), document)]
    # Turned by half first, so that the first rewrite differs most from the text.
    turn = (number + (len(sentences) + 1) // 2) % max(1, len(sentences))
    return " ".join(sentences[turn:] + sentences[:turn])
