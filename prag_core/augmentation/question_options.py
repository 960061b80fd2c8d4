"""Kinds of questions, and settings: how a model is asked to write about documents, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.model.prompts import format_passages
from prag_core.model.wordings import Wording

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


def numbered(lines: Sequence[str]) -> str:
    """Number lines from 1 on."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def _kind(name: str, request: str, column: int, chosen: bool = False) -> QuestionKind:
    """Make a kind from a request and a column of the examples' questions."""
    bare, turns = Wording(name, request, lead="1."), []
    for passage, rows in EXAMPLES:
        given = str(len(rows)) if chosen else numbered([row[0] for row in rows])
        # The answer first: what is written next to it is about it.
        replies = [f"{row[0]} | {row[column]}" for row in rows]
        turns.append((bare.fill(given, format_passages([passage])), numbered(replies)))
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


def check_writing(kinds: Sequence[str], per_document: int) -> None:
    """Raise ValueError for an unknown kind, none, or fewer questions than 1."""
    if not kinds or {*kinds} - {*KINDS} or per_document < 1:
        raise ValueError(
            f"got kinds {', '.join(kinds) or 'none'} and {per_document} questions a document, "
            f"expected some of {', '.join(KINDS)} and 1 or more: correct them"
        )


@dataclass(frozen=True)
class QuestionOptions:
    """Who writes questions, how many, and which are kept.

    Attributes:
        model: that writes and answers: embedded (see `prag models`), hub name, folder or GGUF file.
        dtype: `auto` (see `load_base_model`), `bfloat16`, `float16` or `float32`.
        device: `auto`, `cpu` or `cuda`.
        per_document: questions written about a document, at most.
        kinds: ways to ask for them: `plain` and `reworded` (about answers that rules choose),
            `open` (the model chooses the answers); a document's id decides its kind.
        limit: documents, drawn by the seed; 0 takes all. More can be asked for later.
        seed: of the order in which documents are drawn.
        batch_size: documents written about together; an interruption loses at most these.
        question_tokens: longest question.
        check_with_passage: drop what the model answers wrong with the passage in the prompt.
        check_without_passage: drop what it answers right without.
        most_overlap: drop questions of which a larger share of the content words, the title's left
            out, stands in the sentence of the answer; 1 drops none.
        leave_out: documents and relations that nothing is asked about.
    """

    model: str = "qwen2.5-coder-0.5b"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = "auto"
    per_document: int = 3
    kinds: tuple[str, ...] = tuple(KINDS)
    limit: int = 0
    seed: int = 0
    batch_size: int = 32
    question_tokens: int = 32
    check_with_passage: bool = True
    check_without_passage: bool = True
    most_overlap: float = 1.0
    leave_out: LeaveOut = field(default_factory=LeaveOut)

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        check_writing(self.kinds, self.per_document)
        sizes = self.batch_size, self.question_tokens
        if min(sizes) < 1 or self.limit < 0 or not 0 <= self.most_overlap <= 1:
            raise ValueError(
                f"got batch_size and question_tokens {sizes}, limit {self.limit} and most_overlap "
                f"{self.most_overlap}, expected 1 or more of the first two, a limit of 0 or more, "
                "and an overlap of 0 to 1: correct them"
            )

    def answer_config(self) -> dict[str, object]:
        """Return the settings that all questions of one set share."""
        free = ("device", "limit", "seed", "batch_size", "leave_out")
        settings = {name: value for name, value in asdict(self).items() if name not in free}
        articles = sorted(self.leave_out.articles)  # a file's content, not its name
        relations = sorted(self.leave_out.relations)
        last = self.leave_out.last_documents
        return settings | {"articles": articles, "relations": relations, "last_documents": last}
