"""Metrics against torchmetrics and hand-counted cases."""

from __future__ import annotations

import random

import pytest
from torchmetrics.functional.text import squad

from prag_core.corpus.answer_scores import Scores, normalise, score_answer

WORDS = ["the", "A", "an", "Paris", "paris,", "U.S.", "1976", "--", "Émile", "co-op", "theatre"]
WORDS += ["«Zürich»", "'the'", "of", "of", "New\tYork", " ", "(b)", "İstanbul", "北京"]


def generated_cases(count: int) -> list[tuple[str, list[str]]]:
    """Random texts of few words, so that matches, overlaps and empty texts are all common."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.choice([0, 1, 1, 2, 3, 5])))

    return [(text(), [text() for _ in range(draw.randint(1, 4))]) for _ in range(count)]


def test_exact_match_and_f1_equal_torchmetrics():
    exact_matches = 0
    for prediction, golds in generated_cases(400):
        expected = squad(
            {"prediction_text": prediction, "id": "0"},
            {"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "0"},
        )
        scores = score_answer(prediction, golds)
        assert 100 * scores.exact_match == expected["exact_match"].item(), (prediction, golds)
        assert 100 * scores.f1 == pytest.approx(expected["f1"].item(), abs=1e-4), (
            prediction,
            golds,
        )
        exact_matches += scores.exact_match
    assert 20 < exact_matches < 380  # both outcomes are tested


def test_normalise_follows_squad():
    assert normalise("  The Eiffel-Tower, (a tower)\nin an Area! ") == "eiffeltower tower in area"
    assert normalise("theatre") == "theatre"


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        # 2 of 4 predicted words, 2 of 2 golden words
        ("it was Ada Lovelace", ["Ada Lovelace"], Scores(0, 2 / 3, 0.5, 1, 1)),
        # precision comes from the first gold, recall from the second
        ("red blue", ["red blue green grey", "red"], Scores(0, 2 / 3, 1, 1, 1)),
        ("Paris!", ["London", "the paris"], Scores(1, 1, 1, 1, 1)),
        ("18", ["1"], Scores(0, 0, 0, 0, 0)),  # contained as text, not as a word
        ("Lovelace Ada", ["Ada Lovelace"], Scores(0, 1, 1, 1, 0)),  # order counts only there
        ("", ["Paris"], Scores(0, 0, 0, 0, 0)),
        ("anything", ["the"], Scores(0, 0, 0, 0, 0)),  # a gold of nothing is not contained
        ("a", ["the"], Scores(1, 1, 1, 1, 1)),
    ],
)
def test_scores_of_hand_counted_cases(prediction, golds, expected):
    scores = score_answer(prediction, golds)
    assert vars(scores) == pytest.approx(vars(expected))


def test_contained_repeated_words_count_once_each():
    assert score_answer("yes yes yes", ["yes"]).precision == pytest.approx(1 / 3)


@pytest.mark.parametrize("golds", [[], "Paris"])
def test_golden_answers_must_be_a_list(golds):
    with pytest.raises(ValueError, match=r"got golden answers .*expected a list"):
        score_answer("Paris", golds)
