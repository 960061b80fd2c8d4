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
    choose_spans,
    content_words,
    find_details,
    split_sentences,
)
from prag_core.augmentation.self_augmenter import generate_fitting
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix, common_start, read_prefix
from prag_core.model.prompts import format_passages, prompt_ids, question_prompt
from prag_core.model.wordings import Wording

VERSION = 1  # of the rules below; part of the fingerprint
MOST_WORDS = 8  # of an answer: a span, no clause
REPLY = re.compile(r"^\s*\d+[.)]\s*([^|\n]+)\|\s*([^|\n]*\?)\s*$", re.MULTILINE)
# Passages of ours, what is asked about them, and how: their answers, plain and reworded questions.
LIGHT = Document(
    "Tarn Point Lighthouse stands on the northern cape of Ellmarsh Island. It was designed by Paul "
    "Renner, a ship builder, and lit for the first time in 1887. Its tower of 34 metres was "
    "painted red after the great storm of 1902.",
    "Tarn Point Lighthouse",
)
PAINTER = Document(
    "Ida Brandt (3 May 1899 - 1971) was a painter from Halvik. She studied in Lund under Karl "
    "Moberg. Her brother, Jonas Brandt, sold her first portraits in his shop.",
    "Ida Brandt",
)
FILM = Document(
    "The Glass Harbour is a 1954 drama film directed by Otto Lindqvist. Maria Sand plays a widow "
    "who runs a ferry company. It was shot in Ostrel within eleven days and won the Silver Gull.",
    "The Glass Harbour",
)
EXAMPLES = (
    (LIGHT, (
        ("Paul Renner", "Who designed Tarn Point Lighthouse?",
         "Which craftsman drew the plans for the beacon at Tarn Point?"),
        ("1887", "When was Tarn Point Lighthouse first lit?",
         "In what year did Tarn Point Lighthouse start to guide ships?"),
        ("red", "What colour was Tarn Point Lighthouse painted?",
         "Which colour did people give to Tarn Point Lighthouse because of bad weather?"),
    )),
    (PAINTER, (
        ("1971", "When did Ida Brandt die?", "In which year did the life of Ida Brandt end?"),
        ("Karl Moberg", "Who did Ida Brandt study under?",
         "Which teacher trained the artist Ida Brandt?"),
        ("Jonas Brandt", "Which brother of Ida Brandt sold her first portraits?",
         "Who helped his sister Ida Brandt to find her earliest buyers?"),
    )),
    (FILM, (
        ("Otto Lindqvist", "Who directed The Glass Harbour?",
         "Whose work as a film maker is The Glass Harbour?"),
        ("Ostrel", "Where was The Glass Harbour shot?",
         "In which place were the scenes of The Glass Harbour recorded?"),
        ("the Silver Gull", "Which prize did The Glass Harbour win?",
         "What award was given to The Glass Harbour?"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class QuestionKind:
    """One way to ask a model for questions.

    Attributes:
        wording: what it is asked in. {question} stands for the numbered answers, or, where the
            model chooses them, for how many questions it writes.
        chosen: the model chooses the answers.
    """

    wording: Wording
    chosen: bool = False


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def _kind(name: str, request: str, column: int, chosen: bool = False) -> QuestionKind:
    """Make a kind from a request and a column of the examples' questions."""
    bare, turns = Wording(name, request, lead="1."), []
    for passage, rows in EXAMPLES:
        given = str(len(rows)) if chosen else _numbered([row[0] for row in rows])
        # The answer first: what is written next to it is about it.
        replies = [f"{row[0]} | {row[column]}" for row in rows]
        turns.append((bare.fill(given, format_passages([passage])), _numbered(replies)))
    return QuestionKind(replace(bare, turns=tuple(turns)), chosen)


GIVEN = (
    "{passages}\n\nWrite a question for each of these answers, with the name of what it is about"
)
KINDS = {
    kind.wording.name: kind
    for kind in (
        _kind("plain", GIVEN + ":\n{question}", 1),
        _kind("reworded", GIVEN + " and in other words than the passage:\n{question}", 2),
        _kind(
            "open",
            "{passages}\n\nCopy {question} short answers from the passage and write a question for "
            "each, with the name of what it is about and in other words than the passage.",
            2,
            chosen=True,
        ),
    )
}


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


def check_writing(kinds: Sequence[str], per_document: int) -> None:
    """Raise ValueError for an unknown kind, none, or fewer questions than 1."""
    if not kinds or {*kinds} - {*KINDS} or per_document < 1:
        raise ValueError(
            f"got kinds {', '.join(kinds) or 'none'} and {per_document} questions a document, "
            f"expected some of {', '.join(KINDS)} and 1 or more: correct them"
        )


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
            given = _numbered(spans[: self.per_document])
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
