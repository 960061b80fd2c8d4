"""Questions by rule."""

from __future__ import annotations

import pytest

from prag_core.augmentation.answer_spans import choose_spans
from prag_core.augmentation.rule_questions import rule_question
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import LIGHT


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        (
            "Ottoline Varga",
            "By which engineer was Brannock Light designed and first lit on 9 March 1867?",
        ),
        ("9 March 1867", "first lit when?"),
        ("41 metres", "rises how many metres above the rock?"),
        ("Josiah Trewin", "About Brannock Light: who is the last keeper?"),
        ("Ulvaset", "Brannock Light is a lighthouse on which skerry?"),
    ],
)
def test_rule_questions(answer, question):
    span = next(s for s in choose_spans(LIGHT, 50) if s.text == answer)
    assert rule_question(span, LIGHT.title).endswith(question)


def test_rule_questions_move_to_the_front():
    document = Document("The treaty of the islands was signed in 1723.", "Islands")
    question = rule_question(choose_spans(document, 1)[0], document.title)
    assert question == "In what year was the treaty of the islands signed?"
