"""Span augmentation: question-answer pairs and rewrites on documents, for small models.

A small model that is asked freely for pairs writes poor ones, and so it does for one question to a
given answer. Here spans are chosen by rules (answer_spans.py) and the sentence itself becomes the
question (rule_questions.py). The model may put that into natural words: its question is kept if it
speaks of the document alone and the model answers it right with the passage; else the rule's
stays. Where the rules have none, the question is a sentence with a gap. So every pair is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.answer_spans import (
    AnswerSpan,
    choose_spans,
    content_words,
    split_sentences,
)
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.augmentation.rule_questions import question_words, replace_pronoun, rule_question
from prag_core.augmentation.self_augmenter import ask_rewrites, generate_fitting, require_counts
from prag_core.augmentation.templates import (
    BLANK,
    CLOZE,
    REPHRASE,
    REPHRASE_EXAMPLES,
    REWRITE,
    titled,
)
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.prompts import question_prompt

VERSION = 2  # of the rules below and in answer_spans.py and rule_questions.py
MIN_RECALL = 0.6  # share of the answer's words that the model must say
GAP_WORDS = 14  # words kept on either side of a gap
STEM = 4  # letters that tell words apart from each other, but not from their inflections


class SpanAugmenter:
    """Make m question-answer pairs and n rewrites a document; the same every time.

    Args:
        base: the model that rephrases; it need not be the one that the adapters are for.
        rewrites: n, rewrites a document, written by rule (`rule_rewrite`).
        qa_pairs: m, question-answer pairs a document.
        rephrased: pairs a document whose question the model rephrases; 0 asks it nothing. For
            models larger than the embedded one, which gets one in ten right, in 0.5 s each.
        model_rewrites: ask the model for the rewrites too, and keep those that are long enough
            and true to names and numbers. Off: it costs more than all else, and the embedded
            model's rewrites are either untrue or near copies.
        batch_size: rows decoded together.
    """

    def __init__(
        self,
        base: BaseModel,
        rewrites: int = 1,
        qa_pairs: int = 3,
        rephrased: int = 0,
        model_rewrites: bool = False,
        batch_size: int = 32,
    ) -> None:
        require_counts(rewrites, qa_pairs)
        self.base, self.rewrites, self.qa_pairs = base, rewrites, qa_pairs
        self.rephrased, self.model_rewrites = rephrased, model_rewrites
        self.batch_size = batch_size
        counts = [rewrites, qa_pairs, rephrased, model_rewrites]
        prompts = [REPHRASE, REPHRASE_EXAMPLES, CLOZE, REWRITE]
        self.fingerprint = fingerprint(["span", VERSION, base.fingerprint, counts, prompts])

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document; `error` says where it has fewer spans than pairs asked for."""
        pairs = [choose_pairs(document, self.qa_pairs) for document in documents]
        pairs = self._rephrase(documents, pairs)
        rewrites = self._rewrite(documents)
        augmented = []
        for document, rewritten, found in zip(documents, rewrites, pairs, strict=True):
            error = ""
            if len(found) < self.qa_pairs:
                error = f"got {len(found)} answer spans in the text, expected {self.qa_pairs}"
            augmented.append(AugmentedDocument(document, rewritten, tuple(found), error))
        return augmented

    def _rephrase(
        self, documents: Sequence[Document], pairs: Sequence[Sequence[QAPair]]
    ) -> list[list[QAPair]]:
        """Put the model's questions in place of the rules' where they pass both checks."""
        places = [(i, j) for i, row in enumerate(pairs) for j in range(len(row[: self.rephrased]))]
        prompts = [self._rephrase_prompt(pairs[i][j].question) for i, j in places]
        options = GenerationOptions(max_new_tokens=24, batch_size=self.batch_size)
        written = generate_fitting(self.base, prompts, options)
        candidates = []
        for (i, j), text in zip(places, written, strict=True):
            question = f"{question_words(pairs[i][j].question)} {text or ''}".strip()
            if is_plausible(question, pairs[i][j], documents[i]):
                candidates.append((i, j, question))
        checks = [
            question_prompt(self.base.tokenizer, question, [documents[i]])
            for i, _, question in candidates
        ]
        answers = generate_fitting(self.base, checks, options)
        result = [list(row) for row in pairs]
        for (i, j, question), said in zip(candidates, answers, strict=True):
            answer = pairs[i][j].answer
            taken = {pair.question.lower() for pair in result[i]}
            right = score_answer(said or "", [answer]).recall >= MIN_RECALL
            if right and question.lower() not in taken:
                result[i][j] = QAPair(question, answer)
        return result

    def _rephrase_prompt(self, question: str) -> str:
        """Few-shot turns; a tokenizer without chat template gets them as plain text."""
        opening = question_words(question)
        tokenizer = self.base.tokenizer
        if not tokenizer.chat_template:
            shots = [f"{rule}\n=> {natural}" for rule, natural in REPHRASE_EXAMPLES]
            return "\n\n".join([REPHRASE, *shots, f"{question}\n=> {opening}"])
        turns = []
        for rule, natural in REPHRASE_EXAMPLES:
            turns.append({"role": "user", "content": rule})
            turns.append({"role": "assistant", "content": natural})
        turns[0]["content"] = f"{REPHRASE}\n\n{turns[0]['content']}"
        turns.append({"role": "user", "content": question})
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return prompt + opening

    def _rewrite(self, documents: Sequence[Document]) -> list[tuple[str, ...]]:
        asked = [[""] * self.rewrites for _ in documents]
        if self.model_rewrites:
            asked = ask_rewrites(self.base, documents, self.rewrites, self.batch_size)
        return [
            tuple(text or rule_rewrite(document, number) for number, text in enumerate(texts))
            for document, texts in zip(documents, asked, strict=True)
        ]


def is_plausible(question: str, pair: QAPair, document: Document) -> bool:
    """Say whether a model's question is one, leaves its answer open, and adds no words.

    Each of its content words must occur in the document, in some inflection, and it must keep half
    of those of the question it was made from.
    """
    found = _stems(question)
    asked = _stems(pair.question.removeprefix(f"About {document.title}:"))
    return (
        question.endswith("?")
        and not _stems(pair.answer) & (found - asked)
        and len(found) >= 2
        and found <= asked | _stems(f"{document.title} {document.text}")
        and 2 * len(found & asked) >= min(len(asked), 6)
    )


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in content_words(text) if len(word) > 1}


def choose_pairs(document: Document, count: int) -> list[QAPair]:
    """Make `count` pairs by rule, with distinct questions, spread over the document.

    Sentences with a gap come last, where there are too few other questions.
    """
    pairs: dict[str, QAPair] = {}
    for question, span in _questions(document, choose_spans(document, 3 * count + 4)):
        if len(pairs) == count:
            break
        pairs.setdefault(question.lower(), QAPair(question, span.text))
    return list(pairs.values())


def _questions(document: Document, spans: Sequence[AnswerSpan]) -> Iterator[tuple[str, AnswerSpan]]:
    left = []
    for span in spans:
        if question := rule_question(span, document.title):
            yield question, span
        else:
            left.append(span)
    for span in left:
        before = span.sentence[: span.start].split()[-GAP_WORDS:]
        after = span.sentence[span.start + len(span.text) :].split(" ")[: GAP_WORDS + 1]
        gap = " ".join([*before, BLANK + after[0], *after[1:]])
        yield CLOZE.format(sentence=titled(document.title, gap)), span


def rule_rewrite(document: Document, number: int = 0) -> str:
    """Rewrite without a model: sentences in another order, their opening pronouns named.

    Each sentence then stands alone, so that its facts are met in a new context.
    """
    sentences = [replace_pronoun(s, document.title) for s in split_sentences(document.text)]
    turn = (number + (len(sentences) + 1) // 2) % max(1, len(sentences))
    return " ".join(sentences[turn:] + sentences[:turn])
