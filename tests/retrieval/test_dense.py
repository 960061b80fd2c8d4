"""Dense retrieval: exact cosine search, and both embedders without a hub."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from prag_core.corpus.documents import Document
from prag_core.pipeline.setup import Setup
from prag_core.retrieval import dense
from prag_core.retrieval.dense import DenseRetriever
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Hit
from tests.fixtures.tiny import tiny_model

RED, BLUE, GREEN = Document("red red"), Document("blue"), Document("green red")
DOCUMENTS = [RED, BLUE, GREEN]
COLOURS = ("red", "blue", "green")


class Counts:
    """Embeds a text as its counts of colours; a stand-in with vectors known by heart."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.split().count(c) for c in COLOURS] for text in texts])

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += texts
        return self.questions(texts)


def ids(hits: list[list[Hit]]) -> list[list[str]]:
    return [[hit.document_id for hit in row] for row in hits]


def test_scores_are_cosines_and_those_below_the_least_are_left_out():
    retriever = DenseRetriever(DOCUMENTS, Counts())
    assert retriever.retrieve(["red", "yellow", "blue blue"], 5) == [
        [Hit(RED.id, 1.0), Hit(GREEN.id, pytest.approx(0.5**0.5, abs=1e-5))],
        [],
        [Hit(BLUE.id, 1.0)],
    ]
    every = DenseRetriever(DOCUMENTS, Counts(), least=-1)
    assert ids(every.retrieve(["red"], 5)) == [[RED.id, GREEN.id, BLUE.id]]
    assert ids(every.retrieve(["red"], 2, {BLUE.id, GREEN.id})) == [[GREEN.id, BLUE.id]]
    assert every.retrieve(["red"], 2, ()) == [[]]


def test_ties_come_in_the_order_of_ids():
    documents = [Document(f"red {letter}") for letter in "zyxwv"]
    for added in (documents, documents[::-1]):
        [row] = ids(DenseRetriever(added, Counts()).retrieve(["red"], 3))
        assert row == sorted(document.id for document in documents)[:3]


def test_only_new_documents_are_embedded():
    counts = Counts()
    retriever = DenseRetriever([RED, RED], counts)
    retriever.retrieve(["red"])
    retriever.add([RED, BLUE])
    retriever.delete([RED.id])
    retriever.add([GREEN])
    assert retriever.retrieve(["red", "blue"], 1) == DenseRetriever(
        [BLUE, GREEN], Counts()
    ).retrieve(["red", "blue"], 1)
    assert counts.embedded == ["red red", "blue", "green red"]
    assert len(retriever) == 2
    with pytest.raises(ValueError, match="got document id 'nothing'"):
        retriever.delete([BLUE.id, "nothing"])
    retriever.delete([BLUE.id, GREEN.id])
    assert retriever.retrieve(["red"]) == [[]]


def test_wrong_arguments(monkeypatch):
    retriever = DenseRetriever(DOCUMENTS, Counts())
    with pytest.raises(ValueError, match="got k 0"):
        retriever.retrieve(["red"], 0)
    with pytest.raises(ValueError, match="got one string"):
        retriever.retrieve("red")
    for name in ("sparse", "dense:", "hybrids", "bm25:x"):
        with pytest.raises(ValueError, match=f"got retriever '{name}', expected one of auto"):
            Setup(retriever=name)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    for name in ("dense", "dense:some/model", "hybrid"):
        with pytest.raises(ValueError, match=r"pip install 'prag\[dense\]'"):
            make_retriever(name)


@pytest.mark.parametrize("least", [-1.1, 20, math.nan])
def test_a_least_similarity_that_is_no_cosine_is_refused(least):
    with pytest.raises(ValueError, match=r"got least_similarity .*, expected a cosine, -1 to 1"):
        DenseRetriever((), Counts(), least)


def test_static_vectors_find_a_document_that_shares_no_word():
    documents = [
        Document("The physician cured the illness."),
        Document("The orchestra played a symphony."),
        Document(""),
    ]
    retriever = make_retriever("dense", documents)
    assert ids(retriever.retrieve(["Which doctor healed sick people?", ""], 1)) == [
        [documents[0].id], []
    ]  # fmt: skip


def test_sentence_transformers_from_a_folder(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: n for n, word in enumerate((*COLOURS, "ask", "[UNK]"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.eye(5, dtype=np.float32)
    vectors[3] = 3 * vectors[1]  # the word of the prompt draws questions to blue
    module = StaticEmbedding(tokenizer, embedding_weights=vectors)
    prompts = {"query": "ask ", "document": ""}
    SentenceTransformer(modules=[module], prompts=prompts, device="cpu").save(str(tmp_path))
    retriever = make_retriever(f"dense:{tmp_path}", DOCUMENTS)
    assert ids(retriever.retrieve(["red"], 1)) == [[BLUE.id]]
    with pytest.raises(FileNotFoundError, match=r"got the embedding model .*expected a model of"):
        make_retriever(f"dense:{tmp_path / 'missing'}")


def test_documents_longer_than_a_model_reads_are_told_of_once(tmp_path, caplog):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    base, folder = tiny_model(), str(tmp_path / "tiny")
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    modules = [Transformer(folder, max_seq_length=40), Pooling(32)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    documents = [Document("a" * 40), Document("b" * 41), Document("c" * 900)]
    retriever = make_retriever(f"dense:{tmp_path / 'model'}", documents[:1], least_similarity=-1)
    counts = []
    with caplog.at_level(logging.WARNING, "prag_core.retrieval.dense"):
        for document in documents:
            retriever.add([document])
            retriever.retrieve(["a"])
            messages = [r.getMessage() for r in caplog.records if r.name == dense.__name__]
            counts.append(len(messages))
    (message,) = messages
    assert counts == [0, 1, 1]
    assert message.startswith("got 1 of 1 documents longer than the 40 tokens that ")
    assert message.endswith("cut them (--chunk_tokens)")
