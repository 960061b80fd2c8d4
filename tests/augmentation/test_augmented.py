"""Augmentation: the cache and ready-made pairs from files."""

from __future__ import annotations

import json

import pytest

from prag_core.augmentation.augmented import (
    AugmentedDocument,
    CachedAugmenter,
    FileAugmenter,
    QAPair,
    read_qa_pairs,
)
from prag_core.corpus.chunking import chunk_document
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import DYE, LIGHT


class MemoryStore:
    """Records in a dict, through JSON as in a real store."""

    readonly = False

    def __init__(self):
        self.records = {}

    def get_record(self, kind, key):
        text = self.records.get((kind, key))
        return text and json.loads(text)

    def put_record(self, kind, key, record):
        self.records[kind, key] = json.dumps(record)


class CountingAugmenter:
    """Augments with fixed pairs; fails at a document when told to."""

    fingerprint = "counting"

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = [], fail_at

    def augment(self, documents):
        for document in documents:
            if document.text == self.fail_at:
                raise KeyboardInterrupt
            self.seen.append(document.text)
        return [
            AugmentedDocument(d, (f"{d.text}!",), (QAPair("q?", d.text),), "e") for d in documents
        ]


def test_cache_returns_the_same_and_asks_once():
    store, inner = MemoryStore(), CountingAugmenter()
    documents = [Document("a"), Document("b"), Document("a")]
    first = CachedAugmenter(inner, store).augment(documents)
    again = CachedAugmenter(CountingAugmenter(fail_at="a"), store).augment(documents)
    assert first == again == [inner.augment([d])[0] for d in documents]
    assert inner.seen[:2] == ["a", "b"] and len(store.records) == 2


def test_a_store_that_is_only_read_keeps_nothing():
    store, inner = MemoryStore(), CountingAugmenter()
    store.readonly = True
    assert len(CachedAugmenter(inner, store).augment([Document("a")])) == 1
    assert not store.records


def test_cache_resumes_after_an_interruption():
    store = MemoryStore()
    documents = [Document(text) for text in "abcd"]
    with pytest.raises(KeyboardInterrupt):
        CachedAugmenter(CountingAugmenter("d"), store, batch_size=2).augment(documents)
    inner = CountingAugmenter()
    assert len(CachedAugmenter(inner, store, batch_size=2).augment(documents)) == 4
    assert inner.seen == ["c", "d"]


def test_cache_key_depends_on_document_and_augmenter():
    store, inner = MemoryStore(), CountingAugmenter()
    CachedAugmenter(inner, store).augment([Document("a"), Document("a", "title")])
    other = CountingAugmenter()
    other.fingerprint = "other"
    CachedAugmenter(other, store).augment([Document("a")])
    assert len(store.records) == 3


@pytest.mark.parametrize("name", [LIGHT.id, "light", "Brannock Light"])
def test_file_names_documents_by_id_source_id_or_title(tmp_path, name):
    path = tmp_path / "pairs.jsonl"
    row = {"document": name, "question": "Who?", "answer": "Varga"}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"question": "When?"}) + "\n")
    augmented = FileAugmenter(path, [LIGHT, DYE]).augment([DYE, LIGHT])
    assert augmented[1].qa_pairs == (QAPair("Who?", "Varga"), QAPair("When?", "Varga"))
    assert augmented[1].error == "" and "no question-answer pairs" in augmented[0].error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"document": "x", "question": "q", "answer": "a"}', "'x' .*line 1.*names 0 documents"),
        ('{"document": "Same", "question": "q", "answer": "a"}', "names 2 documents of 3"),
        ('{"document": "light", "question": "q"}', "line 1, expected strings for the keys"),
        ('["light"]', "expected strings for the keys"),
        ("{nothing", "line 1: malformed JSON"),
        ("\n" + '{"document": "Zürich"}', "line 2: got byte 15 that is 0xfc"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(line.encode("cp1252"))
    documents = [LIGHT, Document("a", "Same"), Document("b", "Same")]
    with pytest.raises(ValueError, match=message):
        read_qa_pairs(path, documents)


def test_a_byte_order_mark_and_rare_line_breaks_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"document": "light", "question": "Who\u2028?", "answer": "Zürich"}
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(json.dumps(row, ensure_ascii=False).encode(encoding))
        assert read_qa_pairs(path, [LIGHT]) == {LIGHT.id: (QAPair("Who\u2028?", "Zürich"),)}


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected question-answer pairs as JSON lines"):
        read_qa_pairs(tmp_path / "none.jsonl", [LIGHT])


def test_file_fingerprint_follows_the_pairs(tmp_path):
    prints = []
    for answer in ("a", "b", "a"):
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps({"document": "dye", "question": "q", "answer": answer}))
        prints.append(FileAugmenter(path, [DYE]).fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_file_may_hold_full_answers(tmp_path):
    path, row = tmp_path / "pairs.jsonl", {"document": DYE.id, "question": "q?", "answer": "a"}
    path.write_text(json.dumps(row) + "\n")
    without = FileAugmenter(path, [DYE])
    path.write_text(json.dumps(row | {"full_answer": "It is a."}) + "\n")
    augmenter = FileAugmenter(path, [DYE])
    assert augmenter.augment([DYE])[0].qa_pairs == (QAPair("q?", "a", "It is a."),)
    assert augmenter.fingerprint != without.fingerprint
    path.write_text(json.dumps(row | {"full_answer": 3}) + "\n")
    with pytest.raises(ValueError, match=r"got full_answer 3 at .*expected a string"):
        FileAugmenter(path, [DYE])


def test_chunks_have_the_pairs_of_their_document(tmp_path, tiny_base):
    whole = Document("The mill was built in 1871. " * 30, "Mill", "d1")
    chunks = chunk_document(whole, tiny_base.tokenizer, 60)
    assert len(chunks) > 2
    path = tmp_path / "pairs.jsonl"
    for name in (whole.id, "d1", "Mill"):
        row = {"document": name, "question": "When was it built?", "answer": "1871"}
        path.write_text(json.dumps(row))
        before, after = (FileAugmenter(path, corpus) for corpus in ([whole], chunks))
        assert before.fingerprint == after.fingerprint
        for augmenter in (before, after):
            rows = augmenter.augment(chunks)
            assert [len(row.qa_pairs) for row in rows] == [1] * len(chunks)
