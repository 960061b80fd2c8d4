"""Wordings: how a question is asked, as data. A name goes in, a wording comes out.

Adapters are asked in the wording that they were made for, whose id they record; what reads passages
is asked in the one that its base model reads best with (see `reading_wording`). All ask for a short
answer. A lead begins the answer, so that what the model adds begins with its space, as it stands in
a text: " Josiah" is one token of a document, and at the start of a turn the model would write "J",
"os", "iah", which the document does not have.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from prag_core.files import write_json
from prag_core.model.catalogue import cache_folder

SLOTS = ("{passages}", "{question}")
# Of the models in `prag models`.
CHOICES = Path(__file__).parents[1] / "resources" / "reading_prompts.json"


@dataclass(frozen=True)
class Wording:
    """What stands around a question.

    Attributes:
        name: begins its id.
        template: of the user's turn, with the slots {passages} and {question}; without passages
            nothing stands in the place of the first.
        turns: questions and answers that stand before it, as turns of the chat.
        lead: how the model's turn begins: written, not generated, and not shown to users.
        conclusion: the answer is what follows it, where reasoning goes before; "" without.
        ends: characters at whose first an answer ends; "" where it ends with the model's turn.
        punctuated: a question without "?" gets one, and an answer that is trained its full stop.
        untitled: passages are shown without their titles.
    """

    name: str
    template: str = "{passages}\n{question}"
    turns: tuple[tuple[str, str], ...] = ()
    lead: str = ""
    conclusion: str = ""
    ends: str = ""
    punctuated: bool = False
    untitled: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a template without its slots."""
        if missing := [slot for slot in SLOTS if slot not in self.template]:
            raise ValueError(
                f"got a prompt template without {' and '.join(missing)}, expected both slots "
                f"{' and '.join(SLOTS)}: correct the prompt {self.name!r}"
            )
        if not self.name or "-" in self.name:
            raise ValueError(
                f"got the prompt name {self.name!r}, expected some letters without '-': its id "
                "is the name, '-' and a hash"
            )

    @property
    def id(self) -> str:
        """Its name and a hash of all else: another text has another id."""
        from prag_core.adapters.adapter import fingerprint  # deferred: it loads torch

        contents = {key: value for key, value in asdict(self).items() if value and key != "name"}
        return f"{self.name}-{fingerprint(contents)[:6]}"

    def fill(self, question: str, passages: str = "") -> str:
        """Return the user's turn."""
        if self.punctuated:
            question = question.strip().removesuffix("?").rstrip() + "?"
        # Not str.format: a template of users may hold braces. The question last: it may, too.
        parts = self.template.split("{question}")
        return question.join(part.replace("{passages}", passages) for part in parts)

    def answer(self, text: str) -> str:
        """Return the answer in what the model wrote."""
        concluded = self.conclusion and self.conclusion in text
        if concluded:
            # The last conclusion counts; the first where a text may go on behind the answer.
            text = text.split(self.conclusion, 1 if self.ends else -1)[-1]
        text = text.strip()
        ends = [text.find(end) for end in self.ends if end in text]
        text = text[: min(ends, default=len(text))].strip()
        return text.removesuffix(".") if concluded else text


SHORT = "Answer the question with a short phrase.\n{passages}\nQuestion: {question}"
EXAMPLE_TURNS = (
    ("Question: Which river flows through the town of Halvik?", "Answer: the Orne"),
    ("Question: When did Ida Brandt begin to paint?", "Answer: in 1934"),
    ("Question: Who designed the lighthouse of Tarn Point?", "Answer: Paul Renner"),
)
# What Su et al. (2025) ask, in our words: with passages, without, and with adapters alike.
KNOWN = """Answer the question from what you know and from any passages that stand here.
{passages}

Question: {question}"""
REASONED = """{passages}
Question: When did the director of the film The Glass Harbour die?
Answer: The film The Glass Harbour was directed by Ida Brandt. Ida Brandt died on 4 May 1971. \
So the answer is 4 May 1971.

Question: Who is older, Paul Renner or Jan Tschichold?
Answer: Paul Renner was born in 1878. Jan Tschichold was born in 1902. The earlier is 1878. \
So the answer is Paul Renner.

Question: Are the Elbe and the Oder both rivers in Europe?
Answer: The Elbe is a river in Central Europe. The Oder is a river in Central Europe. \
So the answer is yes.

Question: {question}"""
STEPS = "Answer the question step by step.\n" + REASONED
# As Su et al. score: an answer ends at its first full stop, comma or line break.
LETTER = {"ends": ".,\n", "punctuated": True, "untitled": True}
# `direct` is asked without a lead; `cot` is few-shot chain of thought (Wei et al., 2022); `paper`
# and `paper_cot` are for the scheme `paper` (see prag_core/training/README.md).
WORDINGS = {
    wording.name: wording
    for wording in (
        Wording("direct", SHORT),
        Wording("short", SHORT, lead="Answer:"),
        Wording("turns", SHORT, turns=EXAMPLE_TURNS, lead="Answer:"),
        Wording("sentence", SHORT, lead="The answer is"),
        Wording("cot", STEPS, lead="Answer:", conclusion="So the answer is"),
        Wording("paper", KNOWN, lead="The answer is", **LETTER),
        Wording("paper_cot", STEPS, lead="Answer:", conclusion="the answer is", **LETTER),
    )
}
READING = ("short", "turns", "sentence")  # that `prag evaluate --choose_prompts` tries
DEFAULT = WORDINGS["short"]
CONVERSATION = Wording("conversation")  # turns as they are


def find_wording(name: str | Wording) -> Wording:
    """Return a wording by its name or id.

    Raises:
        ValueError: no such name, or an id whose wording has another text today.
    """
    if isinstance(name, Wording):
        return name
    if name in WORDINGS:
        return WORDINGS[name]
    known = {wording.id: wording for wording in WORDINGS.values()}
    if name not in known:
        raise ValueError(
            f"got prompt {name!r}, expected one of {', '.join(WORDINGS)} or a prompt of your own "
            "(name, template, turns, lead): correct it"
        )
    return known[name]


def without_date(prompt_id: str) -> str:
    """Return the id of a prompt without the date that some chat formats show."""
    return "-".join(prompt_id.split("-")[:2])


def reading_wording(model_fingerprint: str) -> Wording:
    """Return the wording that a base model reads passages best with: chosen, else the default.

    What `prag evaluate --choose_prompts` chose on this machine goes before what this package knows.
    """
    for path in (_choice_path(model_fingerprint), CHOICES):
        # os.path asks without raising, also in a folder that nobody may look into.
        choices = _read_choices(path) if os.path.isfile(path) else {}
        name = choices.get(model_fingerprint, {}).get("prompt")
        if name in WORDINGS:
            return WORDINGS[name]
    return DEFAULT


def keep_choice(model_fingerprint: str, choice: dict) -> Path:
    """Keep a chosen prompt for all later runs with this base model; return its file.

    Args:
        model_fingerprint: of the base model.
        choice: `prompt`, its name, and what speaks for it.
    """
    path = _choice_path(model_fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {model_fingerprint: choice})
    return path


def _choice_path(model_fingerprint: str) -> Path:
    return cache_folder() / "prompts" / f"{model_fingerprint}.json"


def _read_choices(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"got a damaged {path} ({error}), expected JSON: delete it, and choose again with "
            "`prag evaluate --choose_prompts`"
        ) from error
