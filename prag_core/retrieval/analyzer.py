"""Analyzer: a text goes in, the word stems that BM25 counts come out."""

from __future__ import annotations

import re
from functools import lru_cache

import Stemmer

STOP_WORDS = """
    a about after all also an and any are as at be because been before but by can could did do does
    for from had has have he her hers him his how i if in into is it its itself me more most my no
    not of on or other our out over she so some such than that the their them then there these they
    this those through to under up was we were what when where which while who whom whose why will
    with would you your
"""
STOP_SET = frozenset(STOP_WORDS.split())
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def analyze(text: str) -> list[str]:
    """Cut text into lower-case word stems without stop words."""
    words = WORD.findall(text.lower().replace("’", "'"))
    stems: list[str] = _stemmer().stemWords([word for word in words if word not in STOP_SET])
    return stems


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")
