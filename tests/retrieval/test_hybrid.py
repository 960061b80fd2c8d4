"""Hybrid retrieval: fusion by reciprocal rank."""

from __future__ import annotations

import pytest

from prag_core.retrieval.bm25 import BM25Retriever
from prag_core.retrieval.dense import DenseRetriever
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.hybrid import HybridRetriever
from prag_core.retrieval.retriever import Hit
from tests.retrieval.test_dense import BLUE, DOCUMENTS, GREEN, RED, Counts, ids


def hybrid(documents=DOCUMENTS) -> HybridRetriever:
    return HybridRetriever(BM25Retriever(), DenseRetriever((), Counts()), documents)


def test_scores_are_fused_ranks():
    [row, nothing] = hybrid().retrieve(["red", "zebra"], 5)
    assert row == [Hit(RED.id, pytest.approx(1.0)), Hit(GREEN.id, pytest.approx(61 / 62))]
    assert nothing == []


def test_what_one_retriever_alone_returns_is_there_with_half_the_score():
    retriever = HybridRetriever(BM25Retriever(), DenseRetriever((), Counts(), 0.9), DOCUMENTS)
    [row] = retriever.retrieve(["red"], 5)
    assert row == [Hit(RED.id, pytest.approx(1.0)), Hit(GREEN.id, pytest.approx(61 / 124))]


def test_among_add_and_delete():
    retriever = hybrid([RED, BLUE])
    retriever.retrieve(["red"])
    retriever.add([GREEN, RED])
    assert ids(retriever.retrieve(["red blue"], 3, {BLUE.id, GREEN.id})) == ids(
        hybrid().retrieve(["red blue"], 3, {BLUE.id, GREEN.id})
    )
    retriever.delete([RED.id])
    assert len(retriever) == 2
    assert ids(retriever.retrieve(["red"], 3)) == [[GREEN.id]]
    with pytest.raises(ValueError, match="got document id 'nothing'"):
        retriever.delete([BLUE.id, "nothing"])
    assert len(retriever) == 2
    with pytest.raises(ValueError, match="got k 0"):
        retriever.retrieve(["red"], 0)


def test_one_text_is_one_document():
    retriever = hybrid(())
    retriever.add("red blue")
    assert len(retriever) == 1


def test_the_factory_makes_one():
    [row] = make_retriever("hybrid", DOCUMENTS).retrieve(["blue"], 1)
    assert row[0].document_id == BLUE.id
