"""Left out: what is kept for measuring goes in, what training may draw comes out.

Articles, relations and documents that are never trained on, so that results on them say something
about documents and questions of a kind that no training has seen.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from prag_core.corpus.documents import Document, iter_documents
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question

PLACE = (
    r"(?:city|town|village|country|place|state|province|county|nation|region|island|area|location|"
    r"continent|borough|district|municipality)"
)
NAME = r"[A-Z][\w.'’-]*"
# What persons are, as texts say it (a general as well as two generals). Suffixes take the rest:
# pianist, politician, photographer, volleyball player. But no checklist.
NOUNS = (files("prag_core") / "resources" / "occupations.txt").read_text().split()
WORDS = "|".join(re.sub("y$", "(?:y|ie)", re.sub("man$", "m[ae]n", noun)) for noun in NOUNS)
OCCUPATION = (
    rf"\b(?:(?:{WORDS})(?:e?s)?|(?!(?:check|play|short|white|black)list)"
    r"\w{3,}(?:ist|ician|grapher|player|maker|worker|writer|keeper|woman)s?|\w{3,}women)\b"
)
BEGUN = r"(?:born|birth|gr[eo]w up|raised)"
TIME = r"(?:\w+ )?(?:year|month|day|date|decade|century)"  # "In what year" asks for no place
# Questions of a relation, however they ask; rather too many than one too few.
RELATIONS = {
    "occupation": (
        r"(?i:\b(?:occupation|profession|vocation|job|career|line of work|field of work)s?\b)",
        r"(?i:\bfor a living\b|\bearn\b[^?]*\bliving\b|\bemploy(?:ed|ment)\b)",
        r"(?i:\bwork(?:s|ed)? as\b|\bof work (?:do|does|did)\b|(?:'s|\bby) trade\b)",
        rf"(?i:\b(?:kind|type|sort) of (?:an? )?{OCCUPATION})",
        r"\b(?i:who|what)\b[^?]* (?:is|are|was|were) [A-Z][^?]*? (?:known|famous) (?:as|for)\b",
        rf"(?i:^\W*what (?:is|was|were|are) )(?:(?:the )?{NAME} )+(?i:position|role|rank)\b",
        r"^\W*(?:What|what) (?:do|does|did) [A-Z][^?]* do\W*$",
        # "Who was Saint Mellitus?", and not "Who was the first bishop?"
        rf"^\W*(?i:who) (?:is|are|was|were)(?: {NAME}| (?:of|de|van|von|the|bin|al-\w+))+\W*$",
    ),
    "place of birth": (
        r"(?i:\bbirth ?-?places?\b|\bhome ?towns?\b|\bnatives? of\b|\boriginally from\b)",
        rf"(?i:\bnative (?:{PLACE}|land)\b|\b{BEGUN}\b[^?]*\bwhere\b)",
        rf"(?i:\b(?:where|(?:in|at|of|from) (?:what|which)(?! {TIME}))\b[^?]*\b{BEGUN}\b)",
        rf"(?i:\b(?:what|which|whose)\b[^?]*\b{PLACE}\b[^?]*\b{BEGUN}\b)",
        rf"(?i:\b(?:born|birth)\b[^?]*\b(?:(?:in|at|of) (?:what|which)|{PLACE})\b)",
        r"\b(?:born|Born) (?:in|at|near) [A-Z]",
        r"(?i:\bwhere (?:do|does|did|has|have)\b[^?]*\b(?:come|hail) from\b)",
        r"(?i:\bwhere (?:is|are|was|were)\b[^?]*\bfrom\b)",
        rf"(?i:\b(?:what|which) [^?]*{PLACE} (?:is|are|was|were)\b[^?]*\bfrom\W*$)",
        rf"(?i:\b(?:is|are|was|were) from (?:what|which)\b[^?]*{PLACE}\b)",
    ),
}
# What something or someone is: the answer tells which ("What is Ida Brandt?", a poet).
KINDS = r"(?i:^\W*(?:who|what)(?: (?:kind|type|sort) of \w+)? (?:is|are|was|were|did .* become)\b)"


@dataclass(frozen=True)
class LeaveOut:
    """What training never draws.

    Attributes:
        titles: file with the titles of articles, one a line; of question sets and corpora alike.
        relations: questions of these relations, however they ask: `occupation`, `place of birth`.
            Documents keep the sentences that state them.
        last_documents: documents at the end of every corpus, whatever other source has them, too.
    """

    titles: str | None = None
    relations: Sequence[str] = ()
    last_documents: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown relation or a negative number."""
        unknown = set(self.relations) - set(RELATIONS)
        if unknown or self.last_documents < 0:
            raise ValueError(
                f"got relations {sorted(unknown)} and last_documents {self.last_documents}, "
                f"expected relations among {', '.join(RELATIONS)} and 0 or more documents"
            )

    @cached_property
    def articles(self) -> frozenset[str]:
        """The titles of the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it names none.
        """
        if self.titles is None:
            return frozenset()
        lines = Path(self.titles).read_text(encoding="utf-8-sig").splitlines()  # Notepad's mark
        titles = frozenset(line.strip() for line in lines if line.strip())
        if not titles:
            raise ValueError(f"got no titles in {self.titles}, expected one a line")
        return titles

    def asks(self, question: str, answers: Sequence[str] = ()) -> bool:
        """Say whether a question asks for one of the relations, by its words or its answers."""
        for name in self.relations:
            if any(re.search(pattern, question) for pattern in RELATIONS[name]):
                return True
            told = answers if name == "occupation" and re.search(KINDS, question) else ()
            if any(re.search(rf"(?i:{OCCUPATION}\W*$)", answer) for answer in told):
                return True
        return False

    def questions(
        self, whole: QuestionSet, held_out: int = 0, most_words: int = 0, seed: int = 0
    ) -> list[Question]:
        """Return a set's questions with golden answers on what is not left out.

        Args:
            whole: the set.
            held_out: draw so many documents, as `prag evaluate` does with `documents`, and take no
                question on their articles (by title, or id where there is none) either.
            most_words: draw no longer ones.
            seed: of the draw.

        Raises:
            ValueError: `last_documents`, which are of a corpus.
        """
        if self.last_documents:
            raise ValueError(
                f"got leave_out.last_documents {self.last_documents} for a question set, expected "
                "0: it is of a corpus; name the articles in leave_out.titles"
            )
        titles = set(self.articles)
        if held_out:
            drawn = whole.sample(held_out, seed, most_words=most_words)
            titles |= {document.title or document.id for document in drawn.documents}
        # Questions without golden answers (BEIR's) have nothing to be trained on.
        return [
            q for q in whole.questions
            if q.golden_answers
            and not self.asks(q.question, q.golden_answers)
            and titles.isdisjoint(whole.documents_by_id[i].title or i for i in q.gold_ids)
        ]  # fmt: skip

    def last_texts(self, path: str | Path) -> set[str]:
        """Return the texts of a corpus' last documents."""
        count = self.last_documents
        ending = deque(iter_documents(path), maxlen=count) if count else ()
        return {document.text for document in ending}

    def remaining(self, path: str | Path) -> Iterator[Document]:
        """Yield a corpus' documents but the last ones, and no other copy of these."""
        # Read twice, so that no more than the last ones are in memory.
        texts = self.last_texts(path)
        return (document for document in iter_documents(path) if document.text not in texts)
