"""Metrics against torchmetrics and hand-counted cases."""

from __future__ import annotations

import random
import re
import string
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad

from prag_core.corpus.answer_scores import Scores, abstains, normalise, score_answer
from prag_core.corpus.question_sets import load_question_set
from tests.fixtures.examples import examples
from tests.fixtures.paths import DATA

WORDS = ["the", "A", "an", "Paris", "paris,", "U.S.", "1976", "--", "Emile", "co-op", "theatre"]
WORDS += ["<Zurich>", "'the'", "of", "of", "New\tYork", " ", "(b)", "A+", "$5", "x_1"]


@pytest.mark.parametrize(
    "text",
    ["", " . ", "I do not know.", "I don\u2019t know the answer", "Unknown", "N/A", "No answer.",
     "The answer cannot be determined from the text.", "It is not mentioned in the passage.",
     "There is no information about this.", "I'm sorry, but I can't answer that."],
)  # fmt: skip
def test_answers_that_abstain(text):
    assert abstains(text)


@pytest.mark.parametrize(
    "text",
    ["Marie Curie", "no", "none", "Nothing", "the Tomb of the Unknown Soldier", "not far from Ulm",
     "He was not given the throne", "Knowledge", "The Great Unknown", "You know who"],
)  # fmt: skip
def test_answers_that_do_not_abstain(text):
    assert not abstains(text)


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


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
def test_answers_of_squad_in_ascii_score_as_by_its_own_rule():
    """The rule is spelled out once more here, as the official script has it."""

    def official(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    answers = [a for q in load_question_set(DATA / "squad_dev").questions for a in q.golden_answers]
    ascii_answers = [answer for answer in answers if answer.isascii()]
    assert len(ascii_answers) > 10_000
    assert [normalise(a) for a in ascii_answers] == [official(a) for a in ascii_answers]


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("“Heroes”", "Heroes"),
        ("Heroes", "„Heroes‟"),
        ("Cafe\u0301 Lo\u0308wenmut", "Café Löwenmut"),
        ("the ﬁnance act", "finance act"),
        ("1914–1918", "1914-1918"),
        ("−5", "-5"),
        ("rock’n’roll", "rock'n'roll"),
        ("rock´n´roll", "rock'n'roll"),
        ("co\u00adop\u200b\ufeff", "coop"),
        ("New\u00a0York\u202f", "New York"),
        ("¿Qué?", "qué"),
        ("«Zürich»…", "zürich"),
        ("１４２０年", "1420年"),
        ("「北京市」。", "北京市"),
        ("北京 市、", "北京市"),
        ("٪القاهرة؟", "القاهرة"),
    ],
)
def test_what_looks_alike_is_equal(prediction, gold):
    assert score_answer(prediction, [gold]) == Scores(1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("prediction", "gold", "f1", "containment"),
    [
        ("北京市", "北京", 0.8, 1),  # 2 of 3 characters, 2 of 2
        ("故宫建于1420年", "1420年", 0.5, 1),  # the number is one word: 2 of 6, 2 of 2
        ("上海", "北京", 0, 0),
        ("東京タワー", "東京", 4 / 7, 1),
        ("กรุงเทพ", "กรุงเทพ", 1, 1),
        ("서울은 수도", "서울", 0, 0),  # Korean has spaces
        ("a la mode", "la mode", 1, 1),  # English articles only
        ("l'arbre de la vie", "arbre de vie", 4 / 7, 0),
    ],
)
def test_partly_equal_answers_of_other_scripts(prediction, gold, f1, containment):
    scores = score_answer(prediction, [gold])
    assert (scores.f1, scores.containment) == (pytest.approx(f1), containment)


@pytest.mark.parametrize(
    ("prediction", "golds"), [(None, ["a"]), ("a", {"text": ["a"]}), ("a", [None]), ("a", None)]
)
def test_what_is_no_text_is_refused_by_name(prediction, golds):
    with pytest.raises(ValueError, match=r"got .*(None|text).*expected"):
        score_answer(prediction, golds)


@settings(max_examples=examples(200), deadline=None)
@given(*[st.text(st.characters(), max_size=30) | st.text("a. the東1", max_size=12)] * 3)
def test_scores_of_any_texts(one, other, third):
    same, there, back = (
        score_answer(one, [one]),
        score_answer(one, [other]),
        score_answer(other, [one]),
    )
    assert set(astuple(same)) == {1.0}
    assert all(0 <= score <= 1 for score in astuple(there))
    assert (there.exact_match, there.f1) == (back.exact_match, back.f1)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    both = score_answer(one, [other, third])  # another golden answer takes nothing away
    assert all(more >= less for more, less in zip(astuple(both), astuple(there), strict=True))
