"""Answer scores: a predicted and the golden answers go in, EM, F1 and containment come out."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# English only, as SQuAD's script: other languages keep their articles.
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


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


# The columns of every results table, in this order.
METRICS = tuple(Scores.__dataclass_fields__)


def normalise(text: str) -> str:
    """Lower case, drop ASCII punctuation and articles, squeeze space, as SQuAD's own script."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def score_answer(prediction: str, golden_answers: Sequence[str]) -> Scores:
    """Score one prediction; every metric takes its own best golden answer.

    Raises:
        ValueError: no golden answers, or one string in place of a list.
    """
    if isinstance(golden_answers, str) or not golden_answers:
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
