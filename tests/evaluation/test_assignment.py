"""Documents that stand in for a question's own in the shuffled control."""

from __future__ import annotations

from collections import Counter

import pytest

from prag_core.corpus.questions import Question
from prag_core.evaluation.assignment import other_documents, replaced_scores
from prag_core.evaluation.options import EvaluationOptions
from prag_core.retrieval.bm25 import Hit


def test_other_documents_are_a_seeded_derangement():
    corpus = [f"d{i}" for i in range(50)]
    used = [[d] for d in corpus]
    others = other_documents(used, [set(row) for row in used], corpus, seed=3)
    assert all(a != b for a, b in zip(used, others, strict=True))
    assert Counter(d for row in others for d in row) == Counter(corpus)
    assert others == other_documents(used, [set(row) for row in used], corpus, seed=3)
    assert others != other_documents(used, [set(row) for row in used], corpus, seed=4)


@pytest.mark.parametrize("seed", range(20))
def test_other_documents_are_never_the_questions_own(seed):
    corpus = [f"d{i}" for i in range(9)]
    used = [["d0", "d1", "d2"], ["d1", "d3"], ["d4", "d0", "d5"], ["d2"]]
    own = [{*row, "d8"} for row in used]
    others = other_documents(used, own, corpus, seed)
    for row, forbidden, other in zip(used, own, others, strict=True):
        assert len(set(other)) == len(row) and not forbidden & set(other)


def test_documents_beside_those_in_use_stand_in_where_needed():
    assert other_documents([["d0"]], [{"d0", "d1"}], ["d0", "d1", "d2"], seed=0) == [["d2"]]


def test_stand_ins_are_merged_with_the_scores_of_what_they_replace():
    class Rag:
        def retrieve(self, questions, k):
            return [[Hit("a", 3.0), Hit("b", 1.5)][:k] for _ in questions]

    question = Question("q", "?", ("x",))
    options = EvaluationOptions(k=2)
    assert replaced_scores(Rag(), [question], "shuffled", options) == [[3.0, 1.5]]
    assert replaced_scores(Rag(), [question], "parametric", options) is None
    gold = EvaluationOptions(retrieval="gold")
    assert replaced_scores(Rag(), [question], "shuffled", gold) is None
