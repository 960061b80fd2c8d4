"""hypernet/questions: the shipped set loads, and asks only about what its texts say."""

from __future__ import annotations

import pytest

from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from tests.fixtures.paths import DATA, ROOT

FOLDER = ROOT / "hypernet" / "questions"
TITLES = DATA / "leave_out_titles.txt"


def test_answers_stand_in_the_texts_and_nothing_left_out_is_asked():
    loaded = load_question_set(FOLDER)
    texts = {document.id: document.text.lower() for document in loaded.documents}
    assert (len(loaded.questions), len(texts)) == (1034, 711)
    assert {i for q in loaded.questions for i in q.gold_ids} == set(texts)
    relations = LeaveOut(titles=None, relations=("occupation", "place of birth"))
    for question in loaded.questions:
        (document,) = question.gold_ids
        assert any(answer.lower() in texts[document] for answer in question.golden_answers)
        assert not relations.asks(question.question, question.golden_answers)


@pytest.mark.skipif(not TITLES.exists(), reason="needs ../shared/data")
def test_no_article_that_is_measured_on_is_among_them():
    titles = {document.title for document in load_question_set(FOLDER).documents}
    assert not titles & set(TITLES.read_text().splitlines())
