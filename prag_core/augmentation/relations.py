"""Questions from patterns: an encyclopedic introduction goes in, question-answer pairs come out.

Corpora without questions still state facts in fixed phrases ("born in", "directed by", "is a").
Each pattern finds one; its answer is a span of the text and its questions name the document's
title. Only trainings use them, of adapters and of hypernetworks: they teach that the title answers
for the relation, in words that the document does not use.
"""

from __future__ import annotations

import random
import re

from prag_core.augmentation.answer_spans import MONTHS
from prag_core.corpus.documents import Document

# (?P<a>...) is the answer in every pattern.
NAME = r"(?P<a>[A-Z][\w.'’-]*(?: (?:(?:of|the|de|van|von|and|du|la) )?[A-Z][\w.'’-]*)*)"
PLACE = r"(?:the )?(?P<a>[A-Z][\w'’-]+(?: (?:(?:of|de|la|upon) )?[A-Z][\w'’-]+)*)"
DATE = r"(?P<a>(?:\d{1,2} [A-Z][a-z]+|[A-Z][a-z]+ \d{1,2},) \d{4})"
# "X is a former ...": what comes before the kind of a thing, and what ends it.
LEAD = r"\b(?:is|was|are|were) (?:an?|the) (?:former |retired |late |professional |\d{4} )*"
NATION = r"(?:[A-Z][\w-]+[ -])*"
END = r"(?= who| whose| and| from|,|\.| of| in| for| born| known| best| that| by| at| with| on|;)"
PERSON = re.compile(
    r"\([^()]*\b(?:born|\d{4} ?[-–])|\bborn\b|\b[Hh]e (?:is|was)|\b[Ss]he (?:is|was)"
)
SPORT = (
    r"\b(?P<a>football|soccer|basketball|baseball|ice hockey|field hockey|rugby|cricket|tennis|"
    r"volleyball|golf|handball|boxing|cycling|swimming|wrestling|badminton|softball|lacrosse)"
)
WORKS = r"(?:film|novel|album|song|single|video game|band|television series|series|book|magazine)"
FEATURE = (
    r"(?:village|town|city|municipality|district|river|mountain|lake|commune|island|county|"
    r"province|university|school|stadium|airport|station|park|church|museum|building)"
)
MAKERS = {
    "directed": ("Who directed {}?", "Who was the director of {}?", "Who is {}'s director?"),
    "produced": ("Who produced {}?", "Who was the producer of {}?", "{} was produced by whom?"),
    "written": ("Who wrote {}?", "Who is the author of {}?", "Who was the writer of {}?",
                "Who was the screenwriter for {}?"),
    "composed": ("Who composed {}?", "Who was the composer of {}?", "Who made {}'s music?"),
    "founded": ("Who founded {}?", "Who was the founder of {}?"),
    "created": ("Who created {}?", "Who was the creator of {}?"),
    "developed": ("Who developed {}?", "Which company developed {}?"),
    "published": ("Who published {}?", "Who was the publisher of {}?"),
    "recorded": ("Who recorded {}?", "Which artist performed {}?"),
    "owned": ("Who owns {}?", "Who is the owner of {}?"),
}  # fmt: skip
BORN = ("Where was {} born?", "In what city was {} born?", "What is {}'s place of birth?",
        "What is the birthplace of {}?")  # fmt: skip
PEOPLE = (
    (LEAD + NATION + r"(?P<a>[a-z][a-z-]+(?: [a-z-]+){0,3}?)" + END,
     ("What is {}'s occupation?", "What does {} do for a living?", "What is {} known as?",
      "What was {}'s profession?", "Who is {}?")),
    (LEAD + r"(?P<a>[A-Z][a-z]+)[ -][a-z]",
     ("What is {}'s nationality?", "Which nationality does {} have?")),
    (r"\bborn\b[^.;()]{0,40}? in " + PLACE, BORN),
    (r"\bnative of " + PLACE, BORN),
    (r"\bborn (?:on )?" + DATE, ("When was {} born?", "What is {}'s date of birth?")),
    (r"[-–] ?" + DATE + r"\)", ("When did {} die?", "What was the date of {}'s death?")),
    (r"\b(?:son|daughter) of (?:the )?(?:[a-z]+ )*" + NAME,
     ("Who is the father of {}?", "Who is {}'s father?", "Who was a parent of {}?")),
    (r"\b[Hh](?:is|er) mother,? (?:was )?" + NAME, ("Who is the mother of {}?",)),
    (SPORT, ("What sport does {} play?", "Which sport is {} known for?")),
    (r"\b(?P<a>Roman Catholic|Catholic|Muslim|Islam|Buddhist|Hindu|Jewish|Lutheran|Anglican)\b",
     ("What is the religion of {}?", "What faith does {} follow?")),
)  # fmt: skip
THINGS = (
    (LEAD + NATION + r"(?P<a>[a-z][a-z-]+(?: [a-z-]+){0,3}?)" + END,
     ("What is {}?", "What kind of thing is {}?")),
    (LEAD + NATION + r"(?P<a>[a-z-]+(?: [a-z-]+){0,2}?) " + WORKS + r"\b",
     ("What genre is {}?", "What is the genre of {}?", "What type of work is {}?")),
    (r"\b(?:located|situated|based|headquartered) in " + PLACE,
     ("Where is {} located?", "In what place is {}?")),
    (LEAD + r"[a-z -]*" + FEATURE + r"\b[^.]*?, (?P<a>[A-Z][a-z]+(?: [A-Z][a-z]+)*)\.",
     ("In what country is {}?", "What country is {} located in?", "Which country has {}?")),
    (r"\b[Ii]ts capital(?: city)?(?: and [a-z ]+)? is (?:the city of )?" + PLACE,
     ("What is the capital of {}?", "Which city is the capital of {}?")),
    (r"\bcapital (?:and [\w ]+? )?(?:city )?of " + PLACE,
     ("{} is the capital of what?", "What is {} the capital of?")),
    (SPORT, ("What sport does {} play?", "Which sport is {} about?")),
    (r"\b(?:founded|established|opened|built|formed) in (?P<a>\d{4})",
     ("When was {} founded?", "In what year was {} established?")),
    (r"\breleased (?:on|in) (?P<a>(?:[A-Z][a-z]+ )?(?:\d{1,2}, )?\d{4})",
     ("When was {} released?", "In what year did {} come out?")),
)  # fmt: skip
MADE = tuple((rf"\b{verb} by (?:the )?(?:[a-z]+ )*{NAME}", texts) for verb, texts in MAKERS.items())
PATTERNS = {
    kind: tuple((re.compile(pattern), questions) for pattern, questions in table)
    for kind, table in {"person": PEOPLE, "thing": THINGS + MADE}.items()
}
MONTH = re.compile(MONTHS)


def subject(document: Document) -> str:
    """Return what questions call a document's subject: the title without "(planet)"."""
    return re.sub(r"\s*\([^)]*\)$", "", document.title).strip()


def find_facts(document: Document, text: str = "") -> list[tuple[tuple[str, ...], str]]:
    """Return (ways to ask, answer) for every pattern that the text matches; none without title.

    Args:
        document: whose title the questions name.
        text: part of its text that the patterns look in; all of it when empty.
    """
    title, relations = subject(document), find_relations(document, text)
    return [(tuple(q.format(title) for q in ways), said) for ways, said in relations]


def find_relations(document: Document, text: str = "") -> list[tuple[tuple[str, ...], str]]:
    """Return the same with {} where the questions name the document's subject."""
    title = subject(document)
    if not title:
        return []
    # The opening tells: further on, other persons may be born.
    kind = "person" if PERSON.search(document.text[:400]) else "thing"
    facts = []
    for pattern, questions in PATTERNS[kind]:
        match = pattern.search(text or document.text)
        if match is None:
            continue
        answer = match["a"].strip(" .")
        month = questions is BORN and MONTH.match(answer)  # "born in May" names no place
        if 1 < len(answer) < 60 and not month and answer.lower() not in title.lower():
            facts.append((questions, answer))
    return facts


def ask(facts: list[tuple[tuple[str, ...], str]], generator: random.Random) -> tuple[str, str]:
    """Draw one question-answer pair."""
    questions, answer = generator.choice(facts)
    return generator.choice(questions), answer
