"""Answer scores: a predicted and the golden answers go in, EM, F1 and containment come out.

And whether an answer abstains: says nothing, or that it is not known.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

# English only, as SQuAD's script: other languages keep their articles.
ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts without spaces between words: each character counts as a word, as in MLQA's own script.
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff])"
)
# What English answers say in place of an answer; on normalised text, "don't" is "dont".
ABSTAINING = re.compile(
    r"|unknown|unanswerable|na|no answer|(it is )?not (known|mentioned|stated|specified|given).*"
    r"|.*\b(i|we|you) (do not|dont|did not|didnt|can ?not|cant|could not|am not able to)"
    r" (know|answer|determine|tell|say|find|provide)\b.*"
    r"|.*\b(cannot|can not|could not) be (answered|determined|found)\b.*"
    r"|.*\b(is|are|was|were) (unknown|not (known|mentioned|stated|specified|provided|given))"
    r"( (in|by|here)\b.*)?"
    r"|.*\b(no|not enough|insufficient) information\b.*|(im|i am) (not sure|sorry|unsure)\b.*"
)


@dataclass(frozen=True)
class Scores:
    """Scores of one answer, each 0 to 1 and each the best over the golden answers.

    Attributes:
        exact_match: normalised texts are equal.
        f1: harmonic mean of word precision and recall (Rajpurkar et al., 2016).
        precision: share of the predicted words that are in the golden answer.
        recall: share of the golden words that are in the prediction.
        containment: the golden answer stands in the prediction as whole words.
    """

    exact_match: float
    f1: float
    precision: float
    recall: float
    containment: float


# What results files hold of a condition, in this order; tables show some of it.
METRICS = tuple(Scores.__dataclass_fields__)


def normalise(text: str) -> str:
    """Lower case, drop punctuation and articles, squeeze space, as SQuAD's own script.

    It sees one text in what looks alike: Unicode's compatibility form (NFKC) goes first, and the
    punctuation of all scripts counts, so do invisible characters. On ASCII it is SQuAD's script.
    Characters of scripts without spaces stand apart.
    """
    plain = unicodedata.normalize("NFKC", text.translate(_dropped())).lower()
    plain = plain.translate(_dropped())  # what the compatibility form made, "..." of "…"
    return " ".join(UNSPACED.sub(r" \1 ", ARTICLES.sub(" ", plain)).split())


@cache
def _dropped() -> dict[int, None]:
    """Return the characters that are no part of an answer, as `str.translate` takes them."""
    # Beyond punctuation (P): soft hyphens and marks of direction (Cf), the minus sign, and accents
    # that stand for an apostrophe.
    names = {*string.punctuation, "\u2212", "\u00b4", "\u02bc"}
    others = (chr(code) for code in range(128, sys.maxunicode + 1))
    signs = (c for c in others if unicodedata.category(c).startswith(("P", "Cf")))
    return dict.fromkeys(map(ord, (*names, *signs)))


def abstains(prediction: str) -> bool:
    """Tell whether an answer is empty or says that it does not know (`ABSTAINING`, in English)."""
    return ABSTAINING.fullmatch(normalise(prediction)) is not None


def score_answer(prediction: str, golden_answers: Sequence[str]) -> Scores:
    """Score one prediction; every metric takes its own best golden answer.

    Raises:
        ValueError: no golden answers, something else than a list of strings, or no string.
    """
    if not isinstance(prediction, str):
        raise ValueError(f"got a prediction {prediction!r}, expected a string")
    one = isinstance(golden_answers, (str, Mapping)) or not golden_answers
    if one or not all(isinstance(answer, str) for answer in golden_answers):
        raise ValueError(f"got golden answers {golden_answers!r}, expected a list of strings")
    # Each metric by itself: the best F1 and the best recall may be on different golden answers.
    columns = zip(*(_score(prediction, gold) for gold in golden_answers), strict=True)
    return Scores(*(max(column) for column in columns))


def _score(prediction: str, gold: str) -> tuple[float, ...]:
    """Return the values of `Scores` for one golden answer."""
    predicted, golden = normalise(prediction), normalise(gold)
    exact = float(predicted == golden)
    # Spaces at both ends make it whole words; an empty golden answer matches only emptiness.
    contained = float(f" {golden} " in f" {predicted} ")
    predicted_words, golden_words = predicted.split(), golden.split()
    if not predicted_words or not golden_words:  # nothing to divide by: SQuAD takes equality
        return exact, exact, exact, exact, contained
    # As multisets: a word that the prediction repeats counts as often as the answer has it.
    common = sum((Counter(predicted_words) & Counter(golden_words)).values())
    precision, recall = common / len(predicted_words), common / len(golden_words)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return exact, f1, precision, recall, contained
