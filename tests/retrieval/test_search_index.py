"""Search indexes of other programs: what they find, keep, and refuse."""

from __future__ import annotations

import os
import sys
import uuid
from errno import ETIMEDOUT

import pytest

from prag_core.corpus.documents import Document
from prag_core.retrieval import search_index
from prag_core.retrieval.bm25 import BM25Retriever
from prag_core.retrieval.factory import check_name, make_retriever

TEXTS = {
    "Mira Voss": "Mira Voss was born in Tarn, a town of millers.",
    "Oss": "Oss has a mill that stands still in May.",
    "Elm": "The river Elm flows through Tarn and Oss to the sea.",
    "Jan Roth": "Jan Roth built the bridge of Oss in 1931.",
    "Zoë": "Zoë's l'école stands at 3.5 km from C++ street.",
}
DOCUMENTS = [Document(text, title) for title, text in TEXTS.items()]
QUESTIONS = ["Who built the bridge of Oss?", "What flows to the sea?", "Where was Voss born?",
             "zoe ecole 3.5", "Who are you?", "zebra"]  # fmt: skip
SERVER = os.environ.get("PRAG_TEST_ELASTICSEARCH", "")  # http://localhost:9200


@pytest.fixture(params=["lancedb", "elasticsearch"])
def name(request, tmp_path):
    """The name of a retriever whose index stays."""
    if request.param == "lancedb":
        return f"lancedb:{tmp_path / 'index'}"
    if not SERVER:
        pytest.skip("needs a server: set PRAG_TEST_ELASTICSEARCH to its url")
    return f"elasticsearch:{SERVER}/prag-test-{uuid.uuid4().hex}"


def ids(rows):
    return [[hit.document_id for hit in row] for row in rows]


def rows_of(retriever):
    """The ids of an index, of each row."""
    index = retriever._index
    if isinstance(index, search_index.LanceIndex):
        return sorted(index._table.to_arrow()["id"].to_pylist())
    return sorted(index.ids())  # a server keeps one document an id


def test_the_first_document_is_that_of_bm25(name):
    rows = make_retriever(name, DOCUMENTS).retrieve(QUESTIONS[:3], 3)
    best = BM25Retriever(DOCUMENTS, least_coverage=0).retrieve(QUESTIONS[:3], 3)
    assert [row[0].document_id for row in rows] == [row[0].document_id for row in best]
    assert all(row == sorted(row, key=lambda hit: -hit.score) for row in rows)


def test_lancedb_finds_what_bm25_finds():
    rows = make_retriever("lancedb", DOCUMENTS).retrieve(QUESTIONS, 5)
    assert ids(rows) == ids(BM25Retriever(DOCUMENTS, least_coverage=0).retrieve(QUESTIONS, 5))
    assert rows[-1] == rows[-2] == []


def test_lancedb_finds_terms_of_any_length():
    words = ["9f" * 32, "பல்கலைக்கழகத்திலிருந்து", "e" * 39, "f" * 40, "g" * 400]
    documents = [Document(f"Here stands {word} alone.") for word in words]
    rows = make_retriever("lancedb", documents).retrieve(words, 1)
    assert ids(rows) == [[document.id] for document in documents]


def test_add_delete_among_and_an_index_that_stays(name, monkeypatch):
    first = make_retriever(name, DOCUMENTS[:3])
    first.add(DOCUMENTS[2:4])
    first.add(DOCUMENTS[2:4])
    assert len(first) == 4
    oss = [d.id for d in DOCUMENTS[1:3]]
    [row] = first.retrieve(["Oss"], 5, oss)
    assert {hit.document_id for hit in row} == set(oss)
    assert first.retrieve(["Oss"], 5, ["nothing"]) == [[]]
    first.delete([DOCUMENTS[1].id])
    assert DOCUMENTS[1].id not in ids(first.retrieve(["Oss mill"], 5))[0]
    with pytest.raises(ValueError, match="got document id"):
        first.delete([DOCUMENTS[0].id, "nothing"])
    # Another opening: the documents of the first that it was not given take no part.
    second = make_retriever(name, DOCUMENTS[3:])
    assert len(second) == 2
    assert ids(second.retrieve(["Oss Tarn"], 1)) == [[DOCUMENTS[3].id]]
    # Also those that come later: more of them than are asked for.
    text = "Oss Tarn. " * 3
    first.add([Document(f"{text}{n}", source_id=f"later{n}") for n in range(9)])
    assert ids(second.retrieve(["Oss Tarn"], 1)) == [[DOCUMENTS[3].id]]
    monkeypatch.setattr(search_index, "MOST_FOREIGN", 1)
    with pytest.raises(ValueError, match="2 documents of others"):
        second.retrieve(["Oss"])


def test_what_another_opening_wrote_is_written_once(name):
    first, second = (make_retriever(name) for _ in range(2))
    first.add(DOCUMENTS)
    second.add(DOCUMENTS)  # as `refresh` of a process that the first one's documents are news to
    assert second.retrieve(["Oss Tarn"], 9) == first.retrieve(["Oss Tarn"], 9)
    assert rows_of(second) == rows_of(first) == sorted(d.id for d in DOCUMENTS)
    second.delete([DOCUMENTS[2].id])
    first.add([Document("Oss Tarn", source_id="later")])
    assert rows_of(first) == rows_of(second) and len(rows_of(second)) == len(DOCUMENTS)


def test_a_text_that_another_corpus_removes_stays_for_those_who_have_it(name):
    first, second = make_retriever(name, DOCUMENTS[:3]), make_retriever(name, DOCUMENTS[1:])
    third = make_retriever(name)
    expected = ids(second.retrieve(QUESTIONS, 1))
    first.delete([DOCUMENTS[1].id, DOCUMENTS[2].id])
    assert ids(second.retrieve(QUESTIONS, 1)) == expected
    first.add(DOCUMENTS[2:3])
    first.delete([DOCUMENTS[2].id])
    second.add([Document("A new text.")])  # its own change is no reason not to look
    assert ids(second.retrieve(QUESTIONS, 1)) == expected
    assert ids(first.retrieve(["What flows to the sea?"])) == [[]]
    # One that the index held at the opening and that comes when it is gone from there.
    first.delete([DOCUMENTS[0].id])
    third.add([DOCUMENTS[0]])
    assert ids(third.retrieve(["Voss"])) == [[DOCUMENTS[0].id]]


def test_a_document_written_twice_at_once_is_found_once(tmp_path):
    name = f"lancedb:{tmp_path / 'index'}"
    retriever = make_retriever(name, DOCUMENTS)
    table = retriever._index._table
    table.add(table.to_arrow())  # what two processes at the same moment leave
    assert len(rows_of(retriever)) == 2 * len(DOCUMENTS)
    assert ids(retriever.retrieve(["Oss"], 3)) == ids(
        BM25Retriever(DOCUMENTS, least_coverage=0).retrieve(["Oss"], 3)
    )
    retriever.delete([DOCUMENTS[1].id])
    assert len(rows_of(retriever)) == 2 * len(DOCUMENTS) - 2


def test_errors_name_the_remedy(monkeypatch):
    for name in ("lancedb:", "elasticsearch", "elasticsearch:localhost", "lance"):
        with pytest.raises(ValueError, match="got retriever"):
            check_name(name)
    with pytest.raises(OSError, match=r"got a failure of the Elasticsearch .*, expected"):
        make_retriever("elasticsearch:http://127.0.0.1:9/index")
    for name in ("lancedb", "elasticsearch:http://127.0.0.1:9/index"):
        package = name.partition(":")[0]
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=rf"prag\[{package}\]"):
            make_retriever(name)


class Failing:
    """A client that fails in a way of its own, whatever it is asked."""

    def __getattr__(self, name):
        raise RuntimeError("it broke")


def test_an_index_that_fails_later_says_so():
    retriever = make_retriever("lancedb", DOCUMENTS)
    retriever._index._table = Failing()
    server = object.__new__(search_index.ElasticIndex)
    server._client = server._scan = Failing()
    server._bulk, server._name = (lambda client, *_, **__: client.bulk), "index"
    calls = (
        lambda: retriever.retrieve(["Oss"]),
        lambda: retriever.delete([DOCUMENTS[0].id]),
        server.version,
        lambda: server.add(DOCUMENTS),
        lambda: server.search("Oss", 1, None),
    )
    for call in calls:
        with pytest.raises(OSError, match=r"got a failure of .*: it broke\), expected") as raised:
            call()
        assert raised.value.errno == ETIMEDOUT
    assert len(retriever) == len(DOCUMENTS)  # to be deleted again
