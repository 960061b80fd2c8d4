"""Recall of gold documents, for questions without golden answers."""

from __future__ import annotations

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.retrieval import retrieval_scores
from prag_core.retrieval.retriever import Hit


def question_set(*gold: tuple[str, ...]) -> QuestionSet:
    questions = tuple(Question(f"q{n}", "Q?", (), ids) for n, ids in enumerate(gold))
    return QuestionSet("set", (Document("a"),), questions)


def test_recall_counts_gold_documents_and_hit_any_of_them():
    hits = [[Hit(i, 1.0) for i in row] for row in ("abc", "xa", "")]
    asked = question_set(("a", "c", "y", "z"), ("a",), ("a",))
    scores = {k: retrieval_scores(asked, hits, k) for k in (1, 3)}
    assert scores[1] == {"questions": 3, "k": 1, "recall": 0.25 / 3, "hit": 1 / 3}
    assert scores[3] == {"questions": 3, "k": 3, "recall": 0.5, "hit": 2 / 3}
    with pytest.raises(ValueError, match="got 1 questions of set with neither"):
        retrieval_scores(question_set(("a",), ()), [[], []], 1)
