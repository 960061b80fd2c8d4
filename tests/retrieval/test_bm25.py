"""Tests of retrieval: both engines rank alike, small corpora work, the index renews itself."""

from __future__ import annotations

import random
import sys

import pytest

from prag_core.corpus.documents import Document, iter_documents
from prag_core.corpus.question_sets import load_question_set
from prag_core.retrieval import bm25 as retrieval
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Hit
from tests.fixtures.paths import DATA

MARIE = Document("Marie Curie discovered radium in Paris.", "Marie Curie")
ALAN = Document("Alan Turing broke ciphers at Bletchley Park.", "Alan Turing")
ADA = Document("Ada Lovelace wrote programs for an engine.", "Ada Lovelace")
EMPTY = Document("It is what it was.")  # stop words only
ENGINES = pytest.mark.parametrize("engine", ["bm25", "bm25s"])


def ids(hits: list[list[Hit]]) -> list[list[str]]:
    return [[hit.document_id for hit in row] for row in hits]


def random_corpus(size: int, seed: int = 0) -> tuple[list[Document], list[str]]:
    """Documents and questions over few words, so that ties and repeated words abound."""
    rng = random.Random(seed)
    words = [f"word{i}x" for i in range(40)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(size)]
    questions = [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(50)]
    return [Document(text, str(i)) for i, text in enumerate(texts)], questions


@pytest.mark.parametrize("size", [1, 2, 3, 200])
def test_both_engines_rank_and_score_alike(size):
    documents, questions = random_corpus(size)
    okapi = make_retriever("bm25", documents, 0).retrieve(questions, 10)
    sparse = make_retriever("bm25s", documents, 0).retrieve(questions, 10)
    assert ids(okapi) == ids(sparse)
    for a, b in zip(okapi, sparse, strict=True):
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=2e-4)


@ENGINES
def test_scores_follow_the_formula(engine):
    documents = [Document("red red blue"), Document("blue"), Document("green tree")]
    [[best, *_]] = make_retriever(engine, documents).retrieve(["red"], 1)
    idf = 0.98082925  # log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))
    assert best == Hit(documents[0].id, pytest.approx(expected, abs=1e-4))


@ENGINES
def test_corpora_of_one_and_two_documents(engine):
    assert ids(make_retriever(engine, [MARIE]).retrieve(["Who found radium?"], 3)) == [[MARIE.id]]
    two = make_retriever(engine, [MARIE, ALAN])
    questions = ["Who found radium?", "Who broke the ciphers?", "Alan"]
    assert ids(two.retrieve(questions, 5)) == [
        [MARIE.id], [ALAN.id], [ALAN.id]
    ]  # fmt: skip
    twice = Document("radium radium paris")  # a word that both have still counts
    [row] = make_retriever(engine, [Document("radium paris"), twice]).retrieve(["radium"], 2)
    assert row[0].document_id == twice.id
    assert row[0].score > row[1].score > 0


@ENGINES
def test_words_in_every_document_still_score_above_none(engine):
    documents = [Document("radium"), Document("radium mine"), Document("radium lamp")]
    [row] = make_retriever(engine, [ALAN, *documents]).retrieve(["radium"], 4)
    ties = sorted(document.id for document in documents[1:])
    assert [hit.document_id for hit in row] == [documents[0].id, *ties]
    [row] = make_retriever(engine, documents).retrieve(["radium"], 4)
    assert len(row) == 3 and all(hit.score > 0 for hit in row)


@ENGINES
@pytest.mark.parametrize("question", ["What is it?", "", "Hello!", "?! \U0001f98a", "\ud800"])
def test_questions_without_a_known_word_give_no_document(engine, question):
    retriever = make_retriever(engine, [MARIE, ALAN, ADA], 0)
    assert retriever.retrieve([question], 2) == [[]]


@ENGINES
def test_questions_of_stop_words_are_searched_for_them(engine):
    who = Document("The Who are a rock band.", "The Who")
    play = Document("To be, or not to be, that is the question.", "Hamlet")
    novel = Document("A horror novel by Stephen King.", "It")
    retriever = make_retriever(engine, [MARIE, ALAN, ADA, who, play, novel])
    questions = ["Who are The Who?", "To be or not to be?", "It?", "Where have you been?"]
    found = [row[0] if row else "" for row in ids(retriever.retrieve(questions, 1))]
    assert found == [who.id, play.id, novel.id, ""]


@ENGINES
def test_a_question_that_shares_a_common_word_only_gives_no_document(engine):
    question = "Which engine drives the tallest Bolivian railway locomotive today?"
    assert make_retriever(engine, [MARIE, ALAN, ADA], 0.9).retrieve([question]) == [[]]
    [[hit]] = make_retriever(engine, [MARIE, ALAN, ADA], 0).retrieve([question])
    assert hit.document_id == ADA.id


@ENGINES
@pytest.mark.parametrize(
    ("texts", "question", "place"),
    [
        (["北京的故宫建于1420年。", "上海的外滩建于1844年。"], "外滩建于哪一年？", 1),
        (["黑猫睡觉。", "白狗跑。"], "猫", 0),
        (["白狗跑。", "黑猫看见狗。", "黑猫睡觉。"], "狗 猫", 1),
        (["남산은 서울에 있다.", "경복궁은 1395년에 지었다."], "경복궁이 언제?", 1),
        (["Cafe\u0301 Lo\u0308wenmut", "Bar Lion"], "café löwenmut", 0),
        (["Café Löwenmut", "Bar Lion"], "cafe lowenmut", 0),
        (["The \ufb01nance house", "A bank"], "finance", 0),
        (["zero\u200bwidth so\u00adft", "A bank"], "zerowidth", 0),
        (["مدرسة في دمشق", "كتاب"], "مَدْرَسَة", 0),
        (["The A-380 has 853 seats", "A ship"], "A380", 0),
        (["C is old", "C++ is newer"], "C++", 1),
        (["1,840 people", "1984 books"], "1840 people", 0),
    ],
)
def test_what_looks_alike_is_found(engine, texts, question, place):
    documents = [Document(text) for text in texts]
    [[best, *_]] = make_retriever(engine, documents).retrieve([question], 2)
    assert best.document_id == documents[place].id


@ENGINES
def test_documents_of_stop_words_only(engine):
    assert ids(make_retriever(engine, [EMPTY]).retrieve(["radium"], 1)) == [[]]
    assert ids(make_retriever(engine, [EMPTY, ADA]).retrieve(["engine"], 1)) == [[ADA.id]]


@ENGINES
def test_ties_come_in_the_order_of_ids(engine):
    documents = [Document(f"same words {letter}{letter}q") for letter in "zyxwvut"]
    for added in (documents, documents[::-1]):
        [row] = ids(make_retriever(engine, added).retrieve(["same words"], 3))
        assert row == sorted(document.id for document in documents)[:3]


@ENGINES
def test_add_and_delete_equal_a_new_index(engine):
    documents, questions = random_corpus(30)
    changed = make_retriever(engine, documents[:20])
    changed.retrieve(questions[:1])
    changed.delete([document.id for document in documents[:5]])
    changed.retrieve(questions[:1])
    changed.add(documents[20:])
    fresh = make_retriever(engine, documents[5:])
    assert len(changed) == len(fresh) == 25
    assert changed.retrieve(questions, 7) == fresh.retrieve(questions, 7)


def test_index_is_made_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        retrieval, "_okapi", lambda *rows, make=retrieval._okapi: calls.append(1) or make(*rows)
    )
    retriever = make_retriever("bm25", [MARIE, ALAN])
    retriever.retrieve(["radium"])
    retriever.add([MARIE])  # there already
    retriever.retrieve(["ciphers"])
    assert len(calls) == 1


def test_duplicates_are_kept_once():
    retriever = make_retriever("bm25", [MARIE, MARIE, ALAN])
    assert len(retriever) == 2
    with pytest.raises(ValueError, match="got document id 'nothing', expected one of the 2"):
        retriever.delete(["nothing"])


def test_delete_of_an_unknown_id_removes_nothing():
    retriever = make_retriever("bm25", [MARIE, ALAN])
    with pytest.raises(ValueError, match="got document id 'nothing'"):
        retriever.delete([MARIE.id, "nothing"])
    assert len(retriever) == 2


@ENGINES
def test_all_documents_deleted(engine):
    retriever = make_retriever(engine, [MARIE])
    retriever.delete([MARIE.id])
    assert retriever.retrieve(["radium", "who"], 3) == [[], []]


def test_wrong_arguments():
    retriever = make_retriever("bm25", [MARIE])
    with pytest.raises(ValueError, match="got k 0, expected 1 or more"):
        retriever.retrieve(["radium"], 0)
    with pytest.raises(ValueError, match="got one string, expected a list"):
        retriever.retrieve("radium")
    with pytest.raises(
        ValueError, match="got retriever 'sparse', expected one of auto, bm25, bm25s"
    ):
        make_retriever("sparse")


def test_auto_takes_bm25s_for_large_corpora(monkeypatch):
    monkeypatch.setattr(retrieval, "BM25S_ABOVE", 2)
    retriever = make_retriever("auto", [MARIE, ALAN])
    assert retriever.engine == "bm25"
    before = retriever.retrieve(["radium"], 2)
    retriever.add([ADA])
    assert retriever.engine == "bm25s"
    assert ids(retriever.retrieve(["radium"], 1)) == [[before[0][0].document_id]]


def test_missing_bm25s_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match=r"expected it for .* pip install 'prag\[bm25s\]'"):
        make_retriever("bm25s", [MARIE])


def test_without_bm25s_auto_stays_with_rank_bm25(monkeypatch, caplog):
    monkeypatch.setattr(retrieval, "BM25S_ABOVE", 2)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    retriever = make_retriever("auto", [MARIE, ALAN])
    expected = make_retriever("bm25", [MARIE, ALAN, ADA]).retrieve(["radium", "who"])
    assert retriever.retrieve(["radium"]) and not caplog.messages
    retriever.add([ADA])
    assert retriever.engine == "bm25" and retriever.retrieve(["radium", "who"]) == expected
    (said,) = caplog.messages
    assert "got 3 documents without bm25s" in said and "pip install 'prag[bm25s]'" in said


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
def test_engines_agree_on_real_text():
    documents = list(iter_documents(DATA / "popqa_250"))
    questions = [document.text[:60] for document in documents[:100]]
    okapi = make_retriever("bm25", documents).retrieve(questions, 5)
    assert ids(okapi) == ids(make_retriever("bm25s", documents).retrieve(questions, 5))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
def test_the_default_gate_loses_no_gold_document_of_search_queries():
    whole = load_question_set(DATA / "nq_800")
    questions = [question.question for question in whole.questions]
    gated = ids(make_retriever("bm25s", whole.documents).retrieve(questions, 3))
    every = ids(make_retriever("bm25s", whole.documents, 0).retrieve(questions, 3))
    lost = [
        q.id
        for q, row, there in zip(whole.questions, gated, every, strict=True)
        if row != there and {*there} & {*q.gold_ids}
    ]
    assert not lost and any(row != there for row, there in zip(gated, every, strict=True))


@pytest.mark.parametrize("engine", ["bm25", "bm25s"])
def test_among_leaves_the_other_documents_out(engine):
    documents, questions = random_corpus(30)
    retriever = make_retriever(engine, documents, 0)
    allowed = {document.id for document in documents[::3]}
    every = retriever.retrieve(questions, len(documents))
    expected = [[hit for hit in row if hit.document_id in allowed][:4] for row in every]
    assert retriever.retrieve(questions, 4, allowed) == expected
    assert retriever.retrieve(questions[:1], 4, ()) == [[]]


@pytest.mark.parametrize("engine", ["bm25", "bm25s"])
def test_a_question_of_stop_words_finds_what_it_names(engine):
    bands = [
        Document("The Who are an English rock band who are loud.", "The Who"),
        Document("The The are an English band, and who are they?", "The The"),
        Document("It is a novel by Stephen King.", "It"),
        Document("To be, or not to be: so it begins.", "Speech"),
        Document("You know why they are loud, and who was it? How is this what you are?", "Talk"),
    ]
    retriever = make_retriever(engine, bands)

    def titles(question: str) -> list[str]:
        (hits,) = retriever.retrieve([question])
        return [band.title for hit in hits for band in bands if band.id == hit.document_id]

    assert titles("Who are The Who?") == ["The Who"]
    assert titles("Who are The The?") == ["The The"]
    assert titles("What is It?") == ["It"]
    assert titles("To be or not to be?") == ["Speech"]
    for greeting in ("How are you?", "Who are you?", "What is this?", "Why?", "Why is that?"):
        assert titles(greeting) == []


@ENGINES
def test_a_long_pasted_text_finds_its_document(engine, monkeypatch):
    """Terms that are left out for speed count as said by the documents that say them."""
    monkeypatch.setattr(retrieval, "MOST_TERMS", 4)
    texts = [" ".join(f"word{n}of{i}" for n in range(30)) for i in range(40)]
    documents = [Document(text) for text in texts]
    (row,) = make_retriever(engine, documents).retrieve([texts[7]], 1)
    assert [hit.document_id for hit in row] == [documents[7].id]
