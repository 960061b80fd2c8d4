"""Analyzer: a text goes in, the terms that BM25 counts come out.

What looks alike, or is written alike by many, is one term: encodings, invisible characters, case,
accents (`café` is `cafe`), digits of all scripts, 1,840 and 1840. A name such as C++, F-16, AT&T or
U.S. is a term beside the words in it. Scripts without spaces between words, and Korean, whose
particles stick to words, give pairs of characters. Other words are stemmed, of Latin letters as
English.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import regex
import Stemmer

from prag_core.corpus.characters import INVISIBLE

STOP_WORDS = """
    a about after all also an and any are as at be because been before but by ca can could did do
    does for from had has have he her hers him his how i if in into is it its itself me more most my
    no not of on or other our out over she so some such than that the their them then there these
    they this those through to under up was we were what when where which while who whom whose why
    will with wo would you your
"""
STOP_SET = frozenset(STOP_WORDS.split())
# Before decomposition, which makes these signs letters or spaces.
TYPED = str.maketrans(dict.fromkeys("’‘‛ʼʻ´′＇", "'") | dict.fromkeys("™℠") | {"‑": "-", "‐": "-"})
# Letters that do not decompose into a plain one, and Arabic letters that keyboards exchange.
PLAIN = str.maketrans(
    dict(zip("øłđðħıəىیکةٱ", "olddhieييكها", strict=True))
    | {"æ": "ae", "œ": "oe", "þ": "th", "ـ": ""}
)
# Marks that readers do without: accents, vowel points, nukta. Kana and Indic vowels are letters, as
# is й.
OPTIONAL_MARKS = regex.compile(
    r"(?V1)(?:(?!(?<=и)\u0306)"
    r"[[\p{M}&&[\p{Inherited}\p{Arabic}\p{Hebrew}\p{Syriac}\p{Cyrillic}]]--[\u3099\u309A]]"
    r"|[\p{ccc=7}--\p{Myanmar}])+"
)
GROUPED = re.compile(r"(?<=\d)[,.'٬\u00a0\u2009\u202f](?=\d{3}(?!\d))")  # 1,840 is 1840
DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
PAIRED = regex.compile(rf"[{SPACELESS}][{SPACELESS}\p{{M}}]*")
UNIT = regex.compile(r"\P{M}\p{M}*")  # a character with its marks
# A word, but not the C of C++, which is another thing than C; L is a letter, W a letter or digit.
WORD = r"(?!L(?:\+\+|\#))W+(?:'W+)*"
NAME = (
    r"(?<!W)(?:(?:L\.){2,}L?(?!W)"  # U.S.
    r"|W+(?:[-&]W+)+"  # F-16, AT&T
    r"|(?<![.,])\d+[.,]\d+(?![.,]?\d)"  # 3.5
    r"|LW*(?:\+\+|\#)(?!W)"  # C++
    r"|\.LW+)"  # .NET
)
# Of ASCII, and of all scripts, which takes three times as long.
ASCII = tuple(re.compile(p.replace("L", "[a-z]").replace("W", "[a-z0-9]")) for p in (WORD, NAME))
UNICODE = tuple(
    regex.compile("(?V1)" + p.replace("L", r"\p{L}").replace("W", rf"[\w--[_{SPACELESS}]]"))
    for p in (rf"{WORD}|{PAIRED.pattern}", NAME)
)
ELISION = regex.compile(r"^(?:[cdjlmnst]|qu|dell?|all|nell|sull|dall|un)'(?=\w\w)")  # l'homme
CONTRACTION = regex.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))$")  # who's
# Languages whose script says enough to stem by; Latin letters are taken for English.
STEMMED = {
    "arabic": regex.compile(r"\p{Arabic}"),
    "greek": regex.compile(r"\p{Greek}"),
    "hindi": regex.compile(r"\p{Devanagari}"),
    "russian": regex.compile(r"\p{Cyrillic}"),
}


class Terms(NamedTuple):
    """Terms of a text, each as often as it occurs.

    Attributes:
        words: that tell documents apart.
        weak: that nearly every text has: stop words, and single characters of the scripts that
            are cut into pairs. They count for a question that has nothing else.
    """

    words: list[str]
    weak: list[str]


def analyze(text: str) -> Terms:
    """Cut a text into terms."""
    text = _plain(text)
    word_pattern, name_pattern = ASCII if text.isascii() else UNICODE
    words, weak = _names(name_pattern.findall(text)), []
    for word in word_pattern.findall(text):
        if not word.isascii() and PAIRED.match(word):
            units = UNIT.findall(word)
            words += [first + second for first, second in pairwise(units)]
            weak += units
            continue
        if "'" in word:
            word = CONTRACTION.sub("", ELISION.sub("", word)).replace("'", "")
            if not word:  # "n't" by itself
                continue
        (weak if word in STOP_SET else words).append(word)
    return Terms(_stems(words), weak)


def _plain(text: str) -> str:
    """Return the text in lower case, each letter and number in the one way it is written."""
    if text.isascii():
        return GROUPED.sub("", text.lower())
    text = GROUPED.sub("", INVISIBLE.sub("", text.translate(TYPED)))
    text = OPTIONAL_MARKS.sub("", unicodedata.normalize("NFKD", text).casefold())
    text = unicodedata.normalize("NFC", text).translate(PLAIN)
    # A digit of a newer Unicode than Python's stays.
    return str(DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0], digit[0])), text))


def _names(matches: list[str]) -> list[str]:
    """Return names and numbers in the one way they are written, without plain compound words."""
    names = []
    for name in matches:
        if "-" in name:
            parts = name.split("-")
            # Plain words stand by themselves, as do the years of 1914-1918.
            if name.replace("-", "").isdigit() or (
                min(map(len, parts)) > 1 and not any(map(str.isdigit, parts))
            ):
                continue
            name = "".join(parts)
        elif name[0] != "." and not name[0].isdigit():
            name = name.replace(".", "")
        names.append(name.replace(",", "."))
    return names


def _stems(words: list[str]) -> list[str]:
    stems: list[str] = _stemmer("english").stemWords(words)  # it leaves other scripts alone
    for place, stem in enumerate(stems):
        if not stem.isascii():
            for language, script in STEMMED.items():
                if script.match(stem):
                    stems[place] = _stemmer(language).stemWord(stem)
    return stems


@lru_cache
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(language)
