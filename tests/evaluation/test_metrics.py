"""Metrics against torchmetrics, hand-counted cases and the theory of the bootstrap."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from torchmetrics.functional.text import squad

from prag_core.corpus.answer_scores import Scores, normalise, score_answer
from prag_core.evaluation.estimates import (
    bootstrap_interval,
    paired_bootstrap,
    paired_permutation,
    ratio_interval,
)

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


def test_interval_agrees_with_normal_theory():
    values = np.random.default_rng(1).normal(0.4, 0.2, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_is_seeded_and_independent_of_blocks(monkeypatch):
    values = np.random.default_rng(2).random(37)
    whole = bootstrap_interval(values, seed=3)
    assert whole == bootstrap_interval(list(values), seed=3)
    assert whole != bootstrap_interval(values, seed=4)
    monkeypatch.setattr("prag_core.evaluation.estimates.BLOCK", 100)
    assert bootstrap_interval(values, seed=3) == whole


def test_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draw = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(draw.random(100) < 0.3, resamples=400, seed=trial)
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [0.5] * 4}, "got 4 values, expected at least 5"),
        ({"values": []}, "got 0 values, expected at least 5"),
        ({"values": [0.5] * 9, "level": 1.0}, "got level 1.0"),
        ({"values": [0.5] * 9, "resamples": 0}, "0 resamples"),
    ],
)
def test_interval_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_paired_interval_is_narrower_where_questions_agree():
    hard = np.random.default_rng(6).random(300)
    mean, low, high = paired_bootstrap(hard + 0.1, hard)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="got 300 and 299 values"):
        paired_bootstrap(hard, hard[1:])


def test_paired_permutation_is_exact_on_all_signs():
    a, b = [1, 1, 1, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 1, 0]
    difference = np.array(a) - np.array(b)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    exact = (abs(signs @ difference) >= abs(difference.sum())).mean()
    assert paired_permutation(a, b, resamples=20_000) == pytest.approx(exact, abs=0.01)
    assert paired_permutation(a, a) == 1
    assert paired_permutation([1.0] * 50, [0.0] * 50) < 0.001
    with pytest.raises(ValueError, match="got 4 and 4 values"):
        paired_permutation(a[:4], b[:4])


def test_ratio_interval_holds_the_ratio_of_the_means():
    generator = np.random.default_rng(0)
    bottom = generator.normal(4, 1, 400)
    top = 0.8 * bottom + generator.normal(0, 0.1, 400)
    ratio, low, high = ratio_interval(top, bottom)
    assert low < ratio < high and ratio == pytest.approx(0.8, abs=0.02)
    assert high - low < 0.02  # paired: what both share cancels out
    with pytest.raises(ValueError, match="got 5 and 4 values"):
        ratio_interval([1.0] * 5, [1.0] * 4)
