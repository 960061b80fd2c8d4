"""Documents that stand in for a question's own in the shuffled control, and distractors."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.assignment import Assignment, neighbours, other_documents
from prag_core.evaluation.conditions import parse_condition
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Hit


@pytest.mark.parametrize("step", [1, 7, 25])
def test_other_documents_are_a_derangement(step):
    corpus = [f"d{i}" for i in range(50)]
    used = [[d] for d in corpus]
    others = other_documents(used, used, corpus, step)
    assert [row[0] for row in others] == [corpus[(i + step) % 50] for i in range(50)]
    assert Counter(d for row in others for d in row) == Counter(corpus)


@pytest.mark.parametrize("seed", range(20))
def test_other_documents_are_never_the_questions_own(seed):
    circle = random.Random(seed).sample([f"d{i}" for i in range(6)], 6)
    used = [["d0", "d1", "d2"], ["d1", "d3"], ["d4", "d0", "d5"], ["d2"]]
    own = [{*row, "d8"} for row in used]
    others = other_documents(used, own, circle, 1 + seed % 3, [f"d{i}" for i in range(9)])
    for row, forbidden, other in zip(used, own, others, strict=True):
        assert len(set(other)) == len(row) and not forbidden & set(other)


def test_documents_beside_those_in_use_stand_in_where_needed():
    assert other_documents([["d0"]], [{"d0", "d1"}], ["d0"], 1, ["d0", "d1", "d2"]) == [["d2"]]


def set_of(count: int, questions: int) -> QuestionSet:
    documents = tuple(Document(f"text {i}") for i in range(count))
    rows = [Question(f"q{i}", "?", ("x",), (documents[i].id,)) for i in range(questions)]
    return QuestionSet("set", documents, tuple(rows))


def test_stand_ins_are_merged_with_the_scores_of_what_they_replace():
    whole = set_of(5, 1)
    a, b, c, *_ = (document.id for document in whole.documents)

    def retrieve(questions, k):
        return [[Hit(b, 3.0), Hit(c, 1.5)][:k] for _ in questions]

    found = Assignment(whole, retrieve, 2, gold=False)
    (row,) = found.rows(parse_condition("shuffled"))
    assert [hit.score for hit in row] == [3.0, 1.5]
    assert not {hit.document_id for hit in row} & {a, b, c}
    assert found.rows(parse_condition("parametric")) == retrieve("?", 2)
    assert found.rows(parse_condition("gold")) == [[Hit(a, 1.0)]]
    assert found.rows(parse_condition("closed_book")) == [[]]


def test_unanswerable_questions_get_the_nearest_documents_without_an_answer():
    titles = ("Ulm", "Ulm", "Bonn", "Bern", "Rome")
    texts = ("Ulm's mayor is Ada.", "The mayor of Ulm swims.", "Bonn's mayor is ADA!",
             "Bern's mayor is Adam.", "Pasta is eaten in Rome.")  # fmt: skip
    documents = tuple(Document(x, title) for x, title in zip(texts, titles, strict=True))
    asked = Question("q", "Who is mayor of Ulm?", ("Ada",), (documents[0].id,))
    retriever = make_retriever("auto", documents)
    whole = QuestionSet("set", documents, (asked,))
    hits = Assignment(whole, retriever.retrieve, k=3)
    (row,) = hits.rows(parse_condition("combine:unanswerable"))
    assert [hit.document_id for hit in row] == [documents[3].id]  # nor what shares no word
    other = Assignment(QuestionSet("set", documents[:3], (asked,)), retriever.retrieve, k=3)
    assert other.rows(parse_condition("parametric:unanswerable")) == [[]]


def test_an_unanswerable_question_where_no_document_is_left_has_none(tiny_base):
    documents = tuple(Document(f"Ulm has {n} mills.", "Ulm") for n in range(3))
    asked = Question("q", "How many mills?", ("1",), (documents[1].id,))
    rag = ParametricRAG(tiny_base, documents=documents)  # which refuses to search among none
    one_article = Assignment(QuestionSet("set", documents, (asked,)), rag.retrieve)
    assert one_article.rows(parse_condition("parametric:unanswerable")) == [[]]


def test_with_gold_documents_the_stand_in_is_half_way_round_the_set():
    whole = set_of(6, 3)
    rows = Assignment(whole, None).rows(parse_condition("shuffled"))
    assert [row[0].document_id for row in rows] == [d.id for d in whole.documents[3:]]


def test_neighbours_are_other_documents():
    documents = [Document(f"{word} likes tea") for word in ("Ann", "Bo", "Cy", "Di", "Ed")]
    for index, row in enumerate(neighbours(documents, 3, seed=0)):
        assert index not in row and len({*row}) == 3


def test_passages_come_in_random_order_and_adapters_the_gold_one_first():
    whole = set_of(30, 30)
    hits = Assignment(whole, None)
    first = [row[0].document_id for row in hits.rows(parse_condition("gold+3"))]
    assert first == [document.id for document in whole.documents]
    rows = hits.rows(parse_condition("in_context+3"))
    places = {[h.document_id for h in row].index(i) for row, i in zip(rows, first, strict=True)}
    assert places == {0, 1, 2, 3}


def test_distractors_come_beside_all_gold_documents():
    whole = set_of(30, 30)
    both = [(q.gold_ids[0], whole.documents[n - 1].id) for n, q in enumerate(whole.questions)]
    asked = [replace(q, gold_ids=own) for q, own in zip(whole.questions, both, strict=True)]
    hits = Assignment(replace(whole, questions=tuple(asked)), None, k=2)
    for row, own in zip(hits.rows(parse_condition("gold+9")), both, strict=True):
        ids = [hit.document_id for hit in row]
        assert tuple(ids[:2]) == own and len({*ids}) == len(ids) >= 10


def test_scores_of_merges_are_those_of_the_set_alone(tiny_base):
    """Whatever else the pipeline holds: its documents push none of the set out."""
    documents = tuple(Document(f"Town {n} has {n} mills.", f"Town {n}") for n in range(4))
    others = [Document(f"Mills, mills, mills: {n}.", "Mills") for n in range(9)]
    asked = tuple(Question(f"q{n}", f"mills of Town {n}?", (str(n),), (documents[n].id,))
                  for n in range(4))  # fmt: skip
    rag = ParametricRAG(tiny_base, documents=(*documents, *others))
    found = Assignment(QuestionSet("set", documents, asked), rag.retrieve)
    for row in found.rows(parse_condition("gold+2:relative")):
        assert len(row) == 3 and all(hit.score > 0 for hit in row)
