"""Estimates against the theory of the bootstrap, exact permutations and hand-made groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prag_core.corpus.questions import Question
from prag_core.evaluation import estimates
from prag_core.evaluation.estimates import (
    Bootstrap,
    Estimate,
    correct,
    detectable,
    document_groups,
    format_estimate,
    holm,
)


def single(values, **options) -> Bootstrap:
    """Every value is a group of its own."""
    return Bootstrap(range(len(values)), **options)


def test_interval_agrees_with_normal_theory():
    values = np.random.default_rng(1).normal(0.4, 0.2, 2000)
    found = single(values).mean(values)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("kept", [0, estimates.KEPT])
def test_interval_is_seeded_and_independent_of_blocks(monkeypatch, kept):
    values = np.random.default_rng(2).random(37)
    whole = single(values, seed=3).mean(values)
    assert whole != single(values, seed=4).mean(values)
    monkeypatch.setattr(estimates, "BLOCK", 100)
    monkeypatch.setattr(estimates, "KEPT", kept)
    bootstrap = single(values, seed=3)
    assert bootstrap.mean(list(values)) == whole == bootstrap.mean(values)


def test_interval_of_equal_values_is_a_point():
    assert single([1.0] * 5).mean([1.0] * 5) == Estimate(1.0, 1.0, 1.0)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draw, hits = np.random.default_rng(5), 0
    for trial in range(200):
        values = draw.random(100) < 0.3
        found = single(values, seed=trial, resamples=400).mean(values)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_questions_of_a_document_count_as_one():
    """Four equal answers about a document say no more than one; the mean is over questions."""
    values = np.random.default_rng(0).random(12)
    once = single(values).mean(values)
    again = Bootstrap(np.repeat(np.arange(12), 4)).mean(np.repeat(values, 4))
    assert _close(again, once)
    uneven = Bootstrap([0] * 9 + list(range(1, 12))).mean([1.0] * 9 + [0.0] * 11)
    assert uneven.mean == pytest.approx(9 / 20) and uneven.low == 0


def _close(one: Estimate, other: Estimate) -> bool:
    pairs = zip((one.mean, one.low, one.high), (other.mean, other.low, other.high), strict=True)
    return all(abs(a - b) < 1e-12 for a, b in pairs)


def test_paired_interval_is_narrower_where_questions_agree():
    hard = np.random.default_rng(6).random(300)
    found = single(hard).difference(hard + 0.1, hard)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="got 299 values, expected 300"):
        single(hard).ratio(hard, hard[1:])


def test_permutation_is_exact_on_all_signs():
    a, b = [1, 1, 1, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 1, 0]
    difference = np.array(a) - np.array(b)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    exact = (abs(signs @ difference) >= abs(difference.sum())).mean()
    assert single(a, resamples=4000).difference(a, b).p == pytest.approx(exact, abs=0.01)
    assert single(a).difference(a, a).p == 1
    assert single(range(50)).difference([1.0] * 50, [0.0] * 50).p < 0.001
    grouped = Bootstrap([n // 10 for n in range(50)])  # five documents: 2 of 32 signs
    assert grouped.difference([1.0] * 50, [0.0] * 50).p == pytest.approx(1 / 16, abs=0.01)


def test_ratio_of_the_means():
    generator = np.random.default_rng(0)
    bottom = generator.normal(4, 1, 400)
    top = 0.8 * bottom + generator.normal(0, 0.1, 400)
    found = single(top).ratio(top, bottom)
    assert found.low < found.mean < found.high and found.mean == pytest.approx(0.8, abs=0.02)
    assert found.high - found.low < 0.02  # paired: what both share cancels out
    assert single(top).ratio(top, 0 * bottom) is None
    rare = np.array([1.0, 0, 0, 0, 0])  # most resamples divide by 0
    assert single(rare).ratio(np.ones(5), rare) == Estimate(5.0)


def test_few_documents_have_no_interval():
    assert Bootstrap([0, 1, 2, 3, 0, 1]).difference([1] * 6, [0] * 6) == Estimate(1.0)


def test_the_detectable_difference_is_seen_four_times_in_five():
    """Documents of one to five questions each that share a part of their difference."""
    draw, seen, sizes = np.random.default_rng(7), 0, []
    rows = np.repeat(np.arange(80), draw.integers(1, 6, 80))

    def sample(size: float) -> Estimate:
        values = size + draw.normal(0, 0.3, 80)[rows] + draw.normal(0, 0.2, len(rows))
        return Bootstrap(rows, resamples=200).difference(values, 0 * values)

    effect = np.mean([sample(0).detectable for _ in range(50)])
    for _ in range(300):
        sizes.append(sample(effect))
    seen = np.mean([one.p < 0.05 for one in sizes])
    assert 0.74 <= seen <= 0.86
    spread = np.std([one.mean for one in sizes])  # of whole samples: what the formula estimates
    assert np.mean([one.detectable for one in sizes]) == pytest.approx(2.8 * spread, rel=0.1)
    single_rows = Bootstrap(range(len(rows)))  # as if questions of a document were independent
    values = draw.normal(0, 0.3, 80)[rows]
    assert single_rows.difference(values, 0 * values).detectable < 0.8 * effect


def test_detectable_of_independent_values_is_the_textbook_one():
    values = np.random.default_rng(8).normal(0, 1, 400)
    error = values.std(ddof=1) / 20
    assert single(values).difference(values, 0 * values).detectable == pytest.approx(
        2.80159 * error, rel=1e-5
    )
    assert detectable(1.0) == pytest.approx(1.959964 + 0.841621)
    equal = single([0.5] * 9).difference([0.5] * 9, [0.5] * 9)  # nothing varies: it says nothing
    assert equal.detectable is None and equal.p == 1


def test_holm_is_the_step_down_procedure():
    # statsmodels 0.14, multipletests(method="holm"), gives the same.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.5, 0.9]) == [1.0, 1.0, 1.0] and holm([]) == []
    assert holm([0.03]) == [0.03]


def test_p_values_are_corrected_metric_by_metric():
    found = correct(
        {
            "a - b": {"f1": Estimate(0.1, p=0.01), "containment": Estimate(0.1, p=0.2)},
            "a - c": {"f1": Estimate(0.1, p=0.04)},
            "a - d": {"f1": Estimate(0.1)},  # too few documents: not tested, not counted
        }
    )
    assert {name: row["f1"].adjusted_p for name, row in found.items()} == {
        "a - b": 0.02, "a - c": 0.04, "a - d": None,
    }  # fmt: skip
    assert found["a - b"]["containment"].adjusted_p == 0.2 and found["a - b"]["f1"].p == 0.01


def test_questions_that_share_any_document_are_one_group():
    golden = [("d1", "d2"), ("d3",), ("d4", "d2"), ("d5", "d4"), ("d3",), ("d6",)]
    questions = [Question(f"q{i}", "?", ("x",), ids) for i, ids in enumerate(golden)]
    first, *rest = document_groups(questions)
    assert [name == first for name in rest] == [False, True, True, False, False]
    assert rest[0] == rest[3] == "d3" and rest[4] == "d6"


def test_groups_are_the_first_gold_documents():
    questions = [Question("a", "?", ("x",), ("d1", "d2")), Question("b", "?", ("x",), ("d1",))]
    assert document_groups([*questions, Question("d1", "?", ("x",))]) == ["d1", "d1", "question d1"]


@pytest.mark.parametrize(
    ("estimate", "options", "text"),
    [
        (Estimate(0.412, 0.38, 0.4449), {}, "41.2 (38.0 to 44.5)"),
        (Estimate(0.05, -0.1, 0.2), {"sign": "+"}, "+5.0 (-10.0 to +20.0)"),
        ({"mean": 1.0, "low": 0, "high": 2}, {"factor": 1, "digits": 2}, "1.00 (0.00 to 2.00)"),
        (Estimate(0.5), {}, "50.0"),
        (None, {}, "-"),
        (Estimate(float("nan")), {}, "-"),
    ],
)
def test_one_format(estimate, options, text):
    assert format_estimate(estimate, **options) == text
