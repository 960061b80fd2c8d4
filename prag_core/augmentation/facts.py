"""Facts: a document goes in, short sentences of one fact each come out, by rules alone.

A sentence is taken apart where the cut is safe: side clauses ("X, which ..., is"), a second verb of
the same subject ("was designed by Y and first lit in Z"), semicolons. Each part gets its subject
back. What opens a sentence in place of the title ("It", "He", "The lighthouse") becomes the title,
a pronoun only where the sentence before is about it, too (`name_subjects`). So every fact can be
read alone; false is one where "It" is something else that the sentence before names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from prag_core.augmentation import relations
from prag_core.augmentation.answer_spans import split_sentences, words
from prag_core.augmentation.rule_questions import (
    BRACKETS,
    OPENING,
    PREPOSITIONS,
    PRONOUN,
    SUBORDINATE,
    is_person,
    replace_pronoun,
)
from prag_core.corpus.documents import Document

VERBS = "was|were|is|are|has|had"
BEFORE = "|".join(PREPOSITIONS)
IRREGULAR = "lit|built|made|born|sold|won|known|given|held|led|written|taken|set|put|lost|found"
# A subject without clause, comma or "and" of its own: what stands behind it is all about it.
INSIDE = rf"and|or|that|which|who|whose|where|{VERBS}"
SUBJECT = rf"(?P<subject>(?!(?i:{BEFORE})\b)(?:(?!\b(?:{INSIDE})\b)[^,;:]){{3,60}}?)"
SIDE_CLAUSE = re.compile(rf"^{SUBJECT}, (?:which|who) (?P<first>[^,]+), (?P<second>.+)$")
# A second verb of its own, or a participle that the first one's "was" belongs to as well.
PAIR = re.compile(
    rf"^{SUBJECT} (?P<verb>{VERBS}) (?P<first>[^,;]+?),? and "
    rf"(?:(?P<other>{VERBS}|became) |(?P<participle>(?:\w+ly |later |first |then )?"
    rf"(?:\w+ed|{IRREGULAR}) ))"
    r"(?P<second>[^,;]+)$"
)
# "X is a small lighthouse on ...": later "The lighthouse" is X.
KIND = re.compile(
    r"\b(?:is|was) (?:an?|the) (?P<kind>[a-z][a-z -]*?)(?= (?:[a-z]*ed )?"
    r"(?:in|of|on|at|for|from|by|to|with|that|which|who|near)\b|[,.(;]|$)"
)
# What cannot be read alone: it speaks of something else, or goes on from another sentence.
DEPENDENT = re.compile(r"(?:It|He|She|They|This|These|Those|That|Its|His|Her|Their|There|Due|To)\b")
OWNED = re.compile(r"(?:His|Her)\b")
LEAST_WORDS, MOST_WORDS = 4, 30


def atomic_facts(document: Document) -> list[str]:
    """Return the document's facts that its text does not state in these words already."""
    facts = dict[str, str]()
    for clause, _ in name_subjects(list(_clauses(document.text)), document):
        for part in _parts(clause):
            if stands_alone(part):
                facts.setdefault(part.lower(), f"{part[:1].upper()}{part[1:]}.")
    return [fact for fact in facts.values() if fact not in document.text]


def stands_alone(fact: str) -> bool:
    """Say whether a fact is one sentence, of fair length, that points at no other."""
    whole = fact.count('"') % 2 == 0 and ". " not in fact
    return whole and LEAST_WORDS <= len(fact.split()) <= MOST_WORDS and not DEPENDENT.match(fact)


def name_subjects(clauses: Sequence[str], document: Document) -> list[tuple[str, bool]]:
    """Put the title in place of what opens a clause for it: a description, or a pronoun.

    A pronoun only behind a clause that is about the title, "He" and "She" also behind one on what
    is theirs ("Her balloon was"): else it may be what that one names. Each clause comes with
    whether what opens it is known, which is false of such a pronoun alone.
    """
    title, named = relations.subject(document), list[tuple[str, bool]]()
    kind, about, theirs = _kind(clauses[:1], document.title), False, False
    for clause in clauses:
        pronoun = PRONOUN.match(clause)
        known = not pronoun or about or (theirs and pronoun[1] != "It")
        named.append((_name_subject(clause, title, kind) if known else clause, known))
        about = known and (pronoun is not None or is_about(named[-1][0], document))
        theirs = about or (theirs and OWNED.match(clause) is not None)
    return named


def is_about(clause: str, document: Document) -> bool:
    """Say whether a clause begins with the title, or a person's surname, which is its subject."""
    title = relations.subject(document)
    names = [title, title.split()[-1]] if is_person(title) else [title]
    known = "|".join(map(re.escape, names))
    # Not "Mars's", "Marsden"; in any case, as in "The quillfoot is".
    return bool(title) and re.match(rf"(?:(?:the|an?) )?(?:{known})[ ,]", clause, re.I) is not None


def _clauses(text: str) -> Iterator[str]:
    """Yield a text's sentences, cut at semicolons, without brackets and openings."""
    for sentence in split_sentences(text):
        bare = OPENING.sub("", BRACKETS.sub("", sentence)).strip(" .")
        for clause in re.split(r"; (?:and |but )?", bare):
            yield clause[:1].upper() + clause[1:]


def _kind(opening: Sequence[str], title: str) -> str:
    """Return what the first sentence calls the title's subject: its noun, "" where it says none."""
    named = words(title)
    about = opening and named and named[0] in words(opening[0].split(" is ")[0])
    match = KIND.search(opening[0]) if about else None
    return match["kind"].split()[-1] if match else ""


def _name_subject(clause: str, title: str, kind: str) -> str:
    """Put the title in place of a pronoun or a description that opens the clause."""
    described = kind and title and re.match(rf"The {re.escape(kind)}\b(?=['’ ])", clause)
    return title + clause[described.end() :] if described else replace_pronoun(clause, title)


def _parts(clause: str) -> Iterator[str]:
    """Yield a clause, or those that it is made of, each with its subject."""
    if SUBORDINATE.match(clause):
        yield clause
    elif match := SIDE_CLAUSE.match(clause):
        for part in (match["first"], match["second"]):
            yield from _parts(f"{match['subject']} {part}")
    elif match := PAIR.match(clause):
        subject, verb = match["subject"], match["verb"]
        yield f"{subject} {verb} {match['first']}"
        shared = f"{match['other'] or verb} {match['participle'] or ''}"
        yield from _parts(f"{subject} {shared}{match['second']}")
    else:
        yield clause
