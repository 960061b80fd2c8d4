"""Altered texts: what is swapped, what is left out, and how answers are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.belief import contradict, stances

CITY = "In what city was {} born?"


def one(text: str, *golden: str, question: str = CITY.format("Ina"), title: str = "Ina"):
    """A set of one document with its question, and another question to draw from."""
    document = Document(text, title)
    asked = Question("q", question, golden, (document.id,), {"prop": "born"})
    other = Question("o", "Who wrote it?" if question.startswith("Who") else CITY, ("Lars Voss",))
    return QuestionSet("set", (document,), (asked, other))


def test_every_mention_and_alias_is_swapped():
    text = "Ina was born in Oslo (the Big Town). OSLO's port, Big  Town's sea. Oslofjord is far."
    altered, counts = contradict(one(text, "Oslo", "the Big Town"), {"q"}, 0)
    (document,), (question,) = altered.documents, altered.questions
    assert document.text == (
        "Ina was born in Lars Voss (the Lars Voss). Lars Voss's port, Lars Voss's sea. "
        "Oslofjord is far."
    )
    assert question.golden_answers == ("Lars Voss",) and question.gold_ids == (document.id,)
    expected = {"prop": "born", "belief": ["Oslo", "the Big Town"], "kind": "place"}
    assert question.metadata == expected
    assert counts == {"questions": 2, "right": 1, "kept": 1}


def test_a_title_is_swapped_and_so_is_a_person_s_surname():
    source = one("Ada Brandt wrote it. Brandt died.", "Ada Brandt", question="Who wrote it then?",
                 title="Ada Brandt's book")  # fmt: skip
    (document,) = contradict(source, {"q"}, 0)[0].documents
    assert document.title == "Lars Voss's book"
    assert document.text == "Lars Voss wrote it. Voss died."


@pytest.mark.parametrize(
    ("text", "golden", "question", "reason"),
    [
        ("Ina is from New York. York is old.", ("New York",), CITY, "traces of the answer left"),
        ("Ina was born in Oslo.", ("Rome",), CITY, "answer not in its documents"),
        ("Ina was born in Oslo.", ("Oslo",), "Where is Oslo?", "question names the answer"),
        ("Yes, she was.", ("yes",), "Was she?", "yes or no"),
        ("It is 12 years old.", ("12",), "How old?", "no other answer of its kind"),
        ("It was about U.S.A laws.", ("USA",), CITY, "traces of the answer left"),
    ],
)
def test_what_cannot_be_altered_is_left_out_and_counted(text, golden, question, reason):
    altered, counts = contradict(one(text, *golden, question=question), {"q"}, 0)
    assert not altered.questions and not altered.documents
    assert counts == {"questions": 2, "right": 1, "kept": 0, reason: 1}


def test_capitals_alone_are_no_common_word():
    altered, _ = contradict(one("The US gave us bread.", "US", question=CITY), {"q"}, 0)
    assert not altered.questions  # "us" would be found in answers, so that it counts as a trace


def test_only_what_is_answered_right_and_one_question_a_document():
    document = Document("Ina and Bo were born in Oslo in 1950.")
    questions = [Question(f"q{n}", CITY, ("Oslo",), (document.id,)) for n in range(3)]
    questions.append(Question("o", CITY, ("Rome",)))
    whole = QuestionSet("s", (document,), tuple(questions))
    altered, counts = contradict(whole, {"q1", "q2"}, 0)
    assert [question.id for question in altered.questions] == ["q1"]
    assert counts["document altered for another question"] == 1


def test_answers_are_the_text_s_the_model_s_or_others():
    question = Question("q", CITY, ("Rome",), (), {"belief": ["Oslo", "the Big Town"]})
    said = ["In Rome.", "It was Oslo", "the big town", "Lima", "Rome, not Oslo", ""]
    found = stances([question] * 6, said)
    assert {name: column.tolist() for name, column in found.items()} == {
        "fact": [1, 0, 0, 0, 0, 0],
        "belief": [0, 1, 1, 0, 0, 0],
        "other": [0, 0, 0, 1, 1, 1],
    }
    assert np.all(sum(found.values()) == 1)
    assert stances([Question("p", CITY, ("Rome",))], ["Rome"]) == {}
