"""Questions from patterns: answers are spans of the text, relations are the right ones."""

from __future__ import annotations

import random

import pytest

from prag_core.augmentation.relations import ask, find_facts
from prag_core.corpus.documents import Document


@pytest.mark.parametrize(
    ("title", "text", "question", "answer"),
    [
        ("Ida Brandt (poet)", "Ida Brandt (born 4 May 1971 in Ulm) is a German poet from Bavaria.",
         "What is Ida Brandt's occupation?", "poet"),
        ("Ida Brandt", "Ida Brandt (born 4 May 1971 in Ulm, Germany) is a German poet.",
         "Where was Ida Brandt born?", "Ulm"),
        ("Ida Brandt", "Ida Brandt (born 4 May 1971 in Ulm, Germany) is a German poet.",
         "When was Ida Brandt born?", "4 May 1971"),
        ("Glass", "Glass is a 1990 drama film directed by Jan Vos and produced by Eva Lee.",
         "Who directed Glass?", "Jan Vos"),
        ("Glass", "Glass is a 1990 crime drama film directed by Jan Vos.",
         "What genre is Glass?", "crime drama"),
        ("Amdal", "Amdal is a village in Os municipality, Norway. It has a church.",
         "In what country is Amdal?", "Norway"),
    ],
)  # fmt: skip
def test_pattern_finds_the_fact(title, text, question, answer):
    facts = {q: a for questions, a in find_facts(Document(text, title)) for q in questions}
    assert facts[question] == answer


def test_answers_stand_in_the_text():
    text = "Ana Roe (2 May 1900 - 3 June 1980) was an English painter born in York, England."
    facts = find_facts(Document(text, "Ana Roe"))
    assert len(facts) >= 4
    assert all(answer in text for _, answer in facts)


def test_no_title_no_questions():
    assert find_facts(Document("It is a village in Norway.")) == []


def test_ask_draws_one_of_the_ways():
    facts = [(("Who?", "Which one?"), "Ana")]
    drawn = {ask(facts, random.Random(seed)) for seed in range(20)}
    assert drawn == {("Who?", "Ana"), ("Which one?", "Ana")}
