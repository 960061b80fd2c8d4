"""Questions by rule: an answer span goes in, a question for it comes out, no model asked.

The sentence itself becomes the question, its span replaced by a question word: moved to the front
where an auxiliary verb allows it ("In what year was the light finished?"), else left in its place
("The light stands how many feet tall?"). Plain, but true by construction.
"""

from __future__ import annotations

import re

from prag_core.augmentation.answer_spans import FUNCTION_WORDS, WORDS, AnswerSpan, content_words

PREPOSITIONS = frozenset(WORDS["prepositions"])
UNITS = "|".join(WORDS["units"])
# Verbs that can stand before their subject: only these make a question by moving the words.
AUXILIARIES = "was|were|is|are|has|had|have|can|will|could|would|may|must"
# "It is said" has no subject that a title could stand for.
PRONOUN = re.compile(r"^(It|He|She)\b(?! (?:is|was) (?:said|believed|thought|known))")
PERSON = re.compile(r"[A-Z][\w'’-]+(?: [A-Z][\w'’.-]*){1,2}")
PLACES = "|".join(WORDS["places"])
THINGS = "|".join([*WORDS["places"], *WORDS["things"]])
# What stands before a person: "by", "the painter ", "named".
AGENTS = re.compile(
    r"(?:by|named|called|\w(?:er|or|ist|ian|man|ess)|teacher|king|queen|poet) (?:(?:was|is) )?$"
)
# "the village of X" asks "which village", "the painter X" asks "which painter".
KIND_BEFORE = re.compile(
    r"\bthe (?P<place>village|town|city|island|river|valley|skerry|region|province|district|parish|"
    r"port|state|county|kingdom) of $|\b(?:[Tt]he|[Aa]n?) (?P<role>[a-z]+(?: [a-z]+){0,2}) $"
)
# "The X, the [span], ...": the span says what X is.
APPOSITION = re.compile(r"^((?:The|Its|His|Her|Their|An?) [^,]{3,50}), (?:the |an? )?$")
BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
CLAUSE_END = re.compile(
    r"[;:–—]|, (?:and|but|which|who|where|while|although|with|such as|including)\b"
)
OPENING = re.compile(r"^(?:However|Moreover|Furthermore|Also|Today|Later|Thus|Then|But|And), ?")
# One of several, or after a dash: a question for it would have more than one answer.
LISTED = re.compile(r"(?:,|–|—|:|\b(?:and|or)) (?:the |a |an )?$")
SUBORDINATE = re.compile(r"^(?:As|While|Although|Because|If|Since|Whereas|After|Before|When)\b")
# What is left behind the span must not end where a word is missing.
DANGLING = re.compile(rf" (?:{AUXILIARIES}|of|the|a|by|in|to)$")
LONG = 22  # words of a question, at most


def rule_question(span: AnswerSpan, title: str = "") -> str:
    """Turn the span's sentence into a question that the span answers; "" where none is sensible.

    Args:
        span: a span of the document.
        title: the document's title; it replaces a pronoun that opens the sentence, and is put
            before a question that says nothing of it.
    """
    before, after = _clause(span)
    if span.kind == "name" and after.startswith(",") and (match := APPOSITION.match(before)):
        word = "who" if AGENTS.search(f"{match[1]} ") else "what"
        return _finish(f"{word} is {_lower_first(match[1])}", title)
    if LISTED.search(before) or SUBORDINATE.match(before) or "(" in before:
        return ""
    before, word = _question_word(span, before, after)
    partial = span.kind == "phrase" and re.match(r" (?:of|to)\b", after)
    if not word or partial or DANGLING.search(after) or after.startswith(("'", "’")):
        return ""
    before = replace_pronoun(before, title)
    if before.strip().lower() in ("", "the", "a", "an"):  # the span is the sentence's subject
        if not re.match(r" \w", after) or after.split()[0] in ("and", "or", "of"):
            return ""
        question = f"{word}{after}"
    else:
        question = _fronted(before, word, after) or f"{before}{word}{after}"
    return _finish(question, title)


def replace_pronoun(sentence: str, title: str) -> str:
    """Put the title in place of an "It" that opens the sentence, a person's name of "He", "She".

    Whether the pronoun is the title at all, the sentence before says (`facts.name_subjects`).
    """
    match = PRONOUN.match(sentence)
    if not match or not title or (match[1] != "It" and not is_person(title)):
        return sentence
    return title + sentence[match.end() :]


def is_person(title: str) -> bool:
    """Say whether a title looks like a person's name."""
    return bool(PERSON.fullmatch(title)) and not re.search(rf"\b(?:{THINGS})\b", title)


def _finish(question: str, title: str) -> str:
    """Add capital, question mark and, where it says nothing of the title, the title."""
    question = re.sub(r"\s+", " ", question).strip(" ,;:-")
    unclosed = question.count("(") != question.count(")")  # the cut went through brackets
    if unclosed or len(question.split()) > LONG or len(content_words(question)) < 2:
        return ""
    if title and not content_words(title) & content_words(question):
        return f"About {title}: {_lower_first(question)}?"
    return f"{question[0].upper()}{question[1:]}?"


def _clause(span: AnswerSpan) -> tuple[str, str]:
    """Return the text before and after the span, without brackets and side clauses."""
    before = span.sentence[: span.start]
    after = span.sentence[span.start + len(span.text) :].rstrip(' .!?"”')
    if span.kind == "title":
        before, after = before.rstrip('"“'), after.lstrip('"”')
    before, after = BRACKETS.sub("", before), BRACKETS.sub("", after)
    after = CLAUSE_END.split(after)[0]
    if before.strip() and ", " not in before:
        after = re.split(r",(?!\d)", after)[0]  # no comma of a number
    before = OPENING.sub("", before.split("; ")[-1])
    # "Name, which ..., is": the side clause goes.
    if match := re.match(r"^([A-Z][\w ]+?), (?:which|who)\b[^,]*, ", before):
        before = f"{match[1]} {before[match.end() :]}"
    return before, after


def _question_word(span: AnswerSpan, before: str, after: str) -> tuple[str, str]:
    """Return the text before the question word, and the word with its preposition ("": none)."""
    kind = KIND_BEFORE.search(before) if span.kind == "name" else None
    if kind and FUNCTION_WORDS & set((kind["role"] or "").split()):
        kind = None  # "the one of the X": no role
    before = before[: kind.start()] if kind else before
    # The question word takes the article's place.
    if span.kind in ("name", "phrase", "title"):
        before = re.sub(r"(?:^|(?<= ))(?:[Tt]he|[Aa]n?|its|his|her|their) $", "", before)
    if span.kind == "date":
        before = re.sub(r"(?<= )the $", "", before)
    last = before.split()[-1].lower() if before.strip() else ""
    preposition = last if last in PREPOSITIONS else ""
    rest = before[: len(before.rstrip()) - len(preposition)] if preposition else before
    rule = {"date": _when, "number": _how_many}.get(span.kind, _what)
    word = rule(span, rest, preposition, after)
    word = f"which {kind['role'] or kind['place']}" if kind else word
    if word and preposition and not word.startswith("when"):  # "when" stands for "in what year"
        word = f"{preposition} {word}"
    return (rest, word) if word else (before, "")


def _when(span: AnswerSpan, rest: str, preposition: str, after: str) -> str:
    if not preposition or preposition in ("of", "between", "for"):
        return ""
    if span.text[-1] == "s":  # 1890s
        return "what decade"
    if span.text.isdigit():
        return "what year"
    return "when" if preposition in ("in", "on") else "what date"


def _how_many(span: AnswerSpan, rest: str, preposition: str, after: str) -> str:
    if "%" in span.text or "percent" in span.text:
        return "what percentage"
    if span.text[0] in "$£€":
        return "how much money"
    if unit := re.search(rf"\b(?:{UNITS})(?: (?:{UNITS}))?$", span.text):
        return f"how many {unit.group()}"
    if re.search(r"\b(?:the|an?) $", rest):  # "the two": not how many, but which
        return ""
    return "how many" if _counted_noun(after) else ""


def _counted_noun(after: str) -> str:
    """Return the word behind the span where it may be a noun that the span belongs to, else ""."""
    match = re.match(r" ([a-z]+)", after)
    return match[1] if match and match[1] not in FUNCTION_WORDS else ""


def _what(span: AnswerSpan, rest: str, preposition: str, after: str) -> str:
    if span.kind == "name":
        parts = span.text.split()
        thing = re.search(rf"\b(?:{THINGS})\b", span.text)
        begins = not rest.strip() and not preposition  # the sentence's subject
        agent = begins or AGENTS.search(f"{rest}{preposition}".rstrip() + " ")
        if 2 <= len(parts) <= 3 and not thing and agent and "of" not in parts:
            return "whom" if preposition else "who"
        if preposition in ("in", "at", "near") or re.search(rf"\b(?:{PLACES})$", span.text):
            return "which place"
        noun = _counted_noun(after)
        if noun and not noun.endswith(("ed", "es")):  # those are more often its verb
            return "which" if rest.strip() else "what"
    return "what"


def _fronted(before: str, word: str, after: str) -> str:
    """Move the question word to the front, the auxiliary behind it; "" where there is none."""
    match = re.match(rf"^(.+?) ({AUXILIARIES}) (.*)$", before.strip() + " ")
    if not match:
        return ""
    subject, auxiliary, rest = match.groups()
    stays = (
        # A long subject, or one with a clause of its own, may hold another verb that should move.
        re.search(r",|\b(?:that|which|who|where|when|if|and)\b", subject)
        or len(subject.split()) > 8
        or word.split()[-1] in ("many", "which", "percentage", "money")
        or "how many" in word
        # "is the X": the span is part of what the subject is, and does not move alone.
        or re.match(r"(?:an?|the|one|not) ", rest)
        or (word == "what" and not rest and after.strip())
        or subject.split()[0].lower() in PREPOSITIONS
        or len(rest.split()) > 6
        or word.startswith(("of ", "as "))
    )
    return "" if stays else f"{word} {auxiliary} {_lower_first(subject)} {rest}{after}"


def _lower_first(text: str) -> str:
    """Lower the first letter of a text that opens with a function word."""
    first = text.split()[0]
    return text[0].lower() + text[1:] if first.lower() in FUNCTION_WORDS else text
