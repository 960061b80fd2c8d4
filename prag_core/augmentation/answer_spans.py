"""Answer spans: a document goes in, short spans that make good answers come out, by rules alone.

Names (capitalised runs), dates, numbers, quoted titles, and noun-like phrases where those run out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from prag_core.corpus.documents import Document

# Lists of English words that the rules know, here and in rule_questions.py.
WORDS = json.loads(files("prag_core").joinpath("resources", "english.json").read_text("utf-8"))
MONTHS, UNITS, NUMBER_WORDS = ("|".join(WORDS[kind]) for kind in ("months", "units", "numbers"))
YEAR = r"1[0-9]\d\d|20\d\d"
# A capitalised word, or an initial with its full stop where another capital follows (J. Doe).
CAPITAL = r"[A-Z][\w'’&-]*(?:\.(?=[A-Z]))?"
KINDS = {  # in order of preference where spans overlap
    "date": re.compile(
        rf"\b(?:(?:\d{{1,2}} )?(?:{MONTHS})(?: \d{{1,2}}(?!\d))?(?:,? (?:{YEAR}))?|(?:{YEAR})s?)\b"
        r"(?![,.]?\d|%)"
    ),
    "title": re.compile(r"[\"“]([^\"“”]{3,60}[^\"“”,.])[\"”]"),
    "name": re.compile(
        rf"\b{CAPITAL}(?:(?: (?:of|de|van|von|du|la|del|the))* {CAPITAL})*(?!\.[A-Z])"
    ),
    "number": re.compile(
        rf"(?<![\w.,-])(?:[$£€]?\d+(?:,\d{{3}})*(?:\.\d+)?%?|(?:{NUMBER_WORDS})(?:-\w+)?)"
        rf"(?:[ -](?:{UNITS})\b){{0,2}}(?![\w-])"
    ),
    "phrase": re.compile(r"\b(?:an?|the|its|his|her|their|by|from|with|into|of) ([a-z][a-z -]+)"),
}
# By how short and unmistakable an answer is; unlike the order of KINDS, which settles overlaps.
PREFERENCE = {"name": 0, "date": 1, "number": 2, "title": 3, "phrase": 4}
FUNCTION_WORDS = frozenset(WORDS["function_words"])
MAX_PHRASE_WORDS = 3  # longer ones are clauses more often than answers
ABBREVIATION = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|St|Mt|No|vs|Jr|Sr|Prof|Gen|Col|Inc|Ltd|[A-Z])\.$")


@dataclass(frozen=True)
class AnswerSpan:
    """A short span of a document: its text, kind (a key of `KINDS`), sentence and place in it."""

    text: str
    kind: str
    sentence: str
    start: int


def split_sentences(text: str) -> list[str]:
    """Split a text after full stops, but not after initials and common abbreviations."""
    sentences: list[str] = []
    for piece in re.split(r"(?<=[.!?])[\"”’)\]]*\s+(?=[\"“(\[]?[A-Z0-9])", text.strip()):
        if sentences and ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        elif piece:
            sentences.append(piece)
    return sentences


def words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text."""
    return re.findall(r"\w+(?:[.,]\d+)*", text.lower())


def content_words(text: str) -> set[str]:
    """Return the words that are no function words."""
    return set(words(text)) - FUNCTION_WORDS


def choose_spans(document: Document, limit: int) -> list[AnswerSpan]:
    """Choose up to `limit` distinct spans, spread over all sentences.

    Each round takes the best span left of every sentence, so that the first few cover the whole
    document: names before dates, numbers, quoted titles and phrases, and a kind that is used less
    before one used more. What the title says and what the text repeats (its subject) is left out.
    """
    queues = [_spans(sentence, document) for sentence in split_sentences(document.text)]
    spans: list[AnswerSpan] = []
    uses: Counter[str] = Counter()  # of each kind
    while len(spans) < limit and any(queues):
        for queue in queues:
            # What stands in another answer goes: it would be asked for twice.
            answers = [span.text.lower() for span in spans]
            queue[:] = [s for s in queue if not any(s.text.lower() in a for a in answers)]
            if not queue or len(spans) == limit:
                continue
            spans.append(min(queue, key=lambda span: (span.kind == "phrase", uses[span.kind])))
            uses[spans[-1].kind] += 1
    return spans


def _spans(sentence: str, document: Document) -> list[AnswerSpan]:
    """Find the spans of one sentence that do not overlap, best kinds first."""
    title, text = document.title.lower(), document.text.lower()
    covered: list[tuple[int, int]] = []
    spans = []
    for kind, start, end in _candidates(sentence, document.text):
        answer = sentence[start:end]
        if any(start < b and a < end for a, b in covered):
            continue
        lower = answer.lower()
        empty = len(answer) < 2 and not answer.isdigit()
        # The subject, or ambiguous: a question would hold its own answer.
        repeated = lower in title or text.count(lower) > 2 or sentence.lower().count(lower) > 1
        if not empty and not repeated:
            spans.append(AnswerSpan(answer, kind, sentence, start))
        elif kind == "phrase":
            continue
        covered.append((start, end))  # what is left out must not come back as part of a phrase
    # A name of several words goes before one of one word, which is ambiguous more often.
    return sorted(spans, key=lambda span: (PREFERENCE[span.kind], " " not in span.text))


def _candidates(sentence: str, text: str) -> Iterator[tuple[str, int, int]]:
    for kind, pattern in KINDS.items():
        for match in pattern.finditer(sentence):
            start, end = match.span(match.lastindex or 0)  # the group, where the pattern has one
            if kind == "name":
                start = _skip_opening(sentence, start, end, text)
                end -= 2 * sentence[start:end].endswith(("'s", "’s"))  # the genitive's two letters
            elif kind == "phrase":
                end = _phrase_end(sentence, start, end)
                definite = re.search(r"\b[Tt]heir $|\b[Tt]he $", sentence[:start])
                if definite and re.search(r" \w+[^s]s$", sentence[start:end]):
                    end = start  # "the flesh tastes": more often a verb than a plural
            if end > start and sentence[end - 1] != ".":  # empty: left out above
                yield kind, start, end


def _skip_opening(sentence: str, start: int, end: int, text: str) -> int:
    """Move a name's start past a capital that only opens the sentence."""
    first = sentence[start:end].split()[0]
    alone = len(first) == end - start
    # One word alone counts as a name where the text writes it with a capital elsewhere, too.
    opening = alone and start < 2 and not re.search(rf"[a-z,] {re.escape(first)}\b", text)
    skipped = len(first) + (not alone)
    return start + skipped if opening or first.lower() in FUNCTION_WORDS else start


def _phrase_end(sentence: str, start: int, end: int) -> int:
    """Cut a run of lower-case words before its first function word or likely verb."""
    stop = start
    for count, match in enumerate(re.finditer(r"[a-z-]+", sentence[start:end])):
        word = match.group()
        verb = count and word.endswith(("ed", "ing", "ly"))  # or an adverb, by their endings
        if verb or word in FUNCTION_WORDS or count == MAX_PHRASE_WORDS + 1:
            break
        stop = start + match.end()
    phrase = sentence[start:stop].split()
    too_long = len(phrase) > MAX_PHRASE_WORDS or len(phrase[0] if phrase else "") < 3
    return start if too_long or phrase[-1].endswith("ly") else stop


def find_details(text: str) -> set[str]:
    """Return the names, dates and numbers of a text, lower case."""
    return {
        sentence[start:end].lower()
        for sentence in split_sentences(text)
        for kind, start, end in _candidates(sentence, text)
        if kind in ("name", "date", "number")
    }
