"""Texts that no document is about: which are drawn, and whose adapters they are read with."""

from __future__ import annotations

import pytest

from prag_core.corpus.documents import Document
from prag_core.evaluation.unrelated import UnrelatedTexts, draw_texts
from tests.fixtures.question_sets import write


@pytest.fixture
def corpus(tmp_path) -> str:
    """4,010 documents, of which the first 10 may be trained on."""
    return str(write(tmp_path / "corpus.jsonl", [{"text": f"Line {n}."} for n in range(4010)]))


def test_the_last_4000_of_a_corpus_are_drawn_from(corpus):
    last = [f"Line {n}." for n in range(10, 4010)]
    assert sorted(draw_texts(corpus, 5000, 0).texts) == sorted(last)
    some = draw_texts(corpus, 48, 0).texts
    assert len({*some}) == 48 and {*some} < {*last}
    assert some == draw_texts(corpus, 48, 0).texts != draw_texts(corpus, 48, 1).texts


def test_too_few_texts_are_refused(corpus):
    with pytest.raises(ValueError, match=r"got 2 unrelated texts of .*corpus\.jsonl, expected"):
        draw_texts(corpus, 2, 0)


def test_documents_take_turns():
    documents = [Document("a"), Document("b")]
    assert UnrelatedTexts(("x", "y", "z")).owners(documents) == [*documents, documents[0]]
