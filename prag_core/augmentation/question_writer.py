"""Question writer: documents go in; a model's questions about them, with answers, come out.

    document -> answer spans (by rule, or the model's choice) -> prompt -> questions -> rules

How a model is asked is data: a `QuestionKind` is a wording with examples of ours, which a small
model needs. All questions on a document come of one prompt, so that it is read once; the examples,
the same for all documents, are read once a batch. Nothing is thrown away here: a question that a
rule objects to says so in its `problem`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.answer_spans import (
    WORDS,
    choose_spans,
    content_words,
    find_details,
    split_sentences,
)
from prag_core.augmentation.question_options import KINDS, check_writing, numbered
from prag_core.augmentation.self_augmenter import generate_fitting
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix, common_start, read_prefix
from prag_core.model.prompts import prompt_ids, question_prompt

VERSION = 2  # of the rules below; part of the fingerprint
RIGHT_F1 = 0.5  # an answer of more counts as right, though it does not hold the whole golden one
DIGITS = {word: str(n) for n, word in enumerate(WORDS["numbers"][:19], 2)}  # two to twenty
MOST_WORDS = 8  # of an answer: a span, no clause
REPLY = re.compile(r"^[^\S\n]*\d+[.)][^\S\n]*([^|\n]+)\|[^\S\n]*([^|\n]*\?)[^\S\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class WrittenQuestion:
    """A question that a model wrote.

    Attributes:
        question: its text.
        answer: as it stands in the document.
        kind: name of the `QuestionKind`.
        overlap: share of the question's content words (the title's left out) that stand in the
            sentence of the answer: 1 for a near copy of the text.
        problem: what a rule objects to; "" where none does.
    """

    question: str
    answer: str
    kind: str
    overlap: float = 0.0
    problem: str = ""


class QuestionWriter:
    """Let a model write questions about documents.

    Args:
        base: the model that writes.
        per_document: questions about a document, at most.
        kinds: names of KINDS; a document's id decides which of them it is asked in.
        question_tokens: longest question.
        batch_size: documents asked about together.

    Raises:
        ValueError: see `check_writing`.
    """

    def __init__(
        self,
        base: BaseModel,
        per_document: int = 3,
        kinds: Sequence[str] = tuple(KINDS),
        question_tokens: int = 32,
        batch_size: int = 32,
    ) -> None:
        check_writing(kinds, per_document)
        self.base, self.per_document, self.kinds = base, per_document, tuple(kinds)
        self.options = GenerationOptions(
            question_tokens * per_document,
            stop=("\n\n", f"\n{per_document + 1}."),
            batch_size=batch_size,
        )
        prompts = [asdict(KINDS[name].wording) for name in kinds]
        parts = [VERSION, base.fingerprint, per_document, question_tokens, prompts]
        self.fingerprint = fingerprint(["questions", *parts])

    def write(self, documents: Sequence[Document]) -> list[list[WrittenQuestion]]:
        """Write questions about each document, in order.

        None are written about one that the context has no room for, or that has no spans.
        """
        names = [self.kinds[int(d.id[:8], 16) % len(self.kinds)] for d in documents]
        prompts = [self._prompt(*row) for row in zip(documents, names, strict=True)]
        asked = [place for place, prompt in enumerate(prompts) if prompt]
        known = {name: self._examples(name) for name in dict.fromkeys(names)}
        prefixes = [known[names[i]] for i in asked]
        texts = generate_fitting(self.base, [prompts[i] for i in asked], self.options, prefixes)
        replies = {i: text or "" for i, text in zip(asked, texts, strict=True)}
        return [
            self._judged(document, replies.get(place, ""), names[place])
            for place, document in enumerate(documents)
        ]

    def _prompt(self, document: Document, name: str) -> str:
        """Write the prompt for a document; "" where it has no spans to ask about."""
        kind, given = KINDS[name], str(self.per_document)
        if not kind.chosen:
            title = content_words(document.title)
            spans = [
                span.text
                for span in choose_spans(document, 4 * self.per_document)
                # The title's words are the subject, which the question names; a phrase is seldom
                # an answer that nothing else in the text could be, nor are "Jr" and the like.
                if span.kind != "phrase"
                and not content_words(span.text) & title
                and (len(span.text) > 2 or span.text.isdigit())
            ]
            given = numbered(spans[: self.per_document])
        if not given:
            return ""
        return question_prompt(self.base.tokenizer, given, [document], kind.wording)

    def _examples(self, name: str) -> Prefix:
        """Read what all prompts of a kind begin with."""
        documents = (Document("In 1.", "0"), Document("By 7.", "Which"))
        rows = [prompt_ids(self.base.tokenizer, self._prompt(d, name)) for d in documents]
        return read_prefix(self.base, rows[0][: common_start(*rows)])

    def _judged(self, document: Document, reply: str, name: str) -> list[WrittenQuestion]:
        judged: list[WrittenQuestion] = []
        for written in read_reply(reply, name)[: self.per_document]:
            judged.append(judge(document, written, [one.question.lower() for one in judged]))
        return judged


def read_reply(text: str, kind: str) -> list[WrittenQuestion]:
    """Read the numbered answers and questions of a reply, behind the "1." that it begins with."""
    pairs = REPLY.findall("1. " + text.strip())
    return [WrittenQuestion(q.strip(), a.strip(" .\"'"), kind) for a, q in pairs]


def judge(
    document: Document, written: WrittenQuestion, known: Sequence[str] = ()
) -> WrittenQuestion:
    """Add what the rules say of a question: its answer as the text has it, overlap and problem.

    Args:
        document: that it is about.
        written: the question.
        known: lower-case questions on this document that came before.
    """
    question, answer = written.question, written.answer
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", document.text, re.IGNORECASE)
    answer = match[0] if match else answer
    title, asked = content_words(document.title), content_words(question)
    # "the club" names none, though the text has a "Club": a capital or a digit does.
    names = content_words(" ".join(re.findall(r"\b[^\W_a-z]\w*", question.partition(" ")[2])))
    subject = asked & title or names & content_words(" ".join(find_details(document.text)))
    asked -= title
    holding = next((s for s in split_sentences(document.text) if answer in s), "")
    overlap = len(asked & content_words(holding)) / max(1, len(asked))
    problems = {
        "answer not in the text": not match,
        "answer is the title": content_words(answer) <= title,
        "answer too long": len(answer.split()) > MOST_WORDS,
        "question holds the answer": bool(score_answer(question, [answer]).containment),
        "question names nothing of the document": not subject,
        "question speaks of the passage": "passage" in question.lower(),
        "asked twice": question.lower() in known,
    }
    problem = next((name for name, is_so in problems.items() if is_so), "")
    return replace(written, answer=answer, overlap=round(overlap, 3), problem=problem)


def golden_answers(answer: str) -> list[str]:
    """Return an answer, and a number that it writes as a word in digits too."""
    return list(dict.fromkeys((answer, DIGITS.get(answer.lower(), answer))))


def is_right(text: str, answer: str) -> bool:
    """Say whether a text holds an answer, or has most of its words (F1)."""
    scores = score_answer(text, golden_answers(answer))
    return bool(scores.containment) or scores.f1 > RIGHT_F1
