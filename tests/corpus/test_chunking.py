"""Tests of chunking, with one token a byte."""

from __future__ import annotations

import pytest

from prag_core.corpus.chunking import chunk_document, chunk_documents
from prag_core.corpus.documents import Document

SENTENCES = ["Alpha beta gamma.", "Dr. Who ran!", "Is it so?", "Yes it is so.", "End of text."]
TEXT = " ".join(SENTENCES)


@pytest.fixture
def tokenizer(tiny_base):
    return tiny_base.tokenizer


@pytest.mark.parametrize("max_tokens", [18, 20, 30, 45])
def test_chunks_end_on_sentences_and_keep_the_text(tokenizer, max_tokens):
    chunks = chunk_document(Document(TEXT, "T"), tokenizer, max_tokens)
    assert " ".join(chunk.text for chunk in chunks) == TEXT
    assert all(len(chunk.text) <= max_tokens for chunk in chunks)
    assert all(chunk.text.endswith((".", "!", "?")) for chunk in chunks)
    assert len(chunks) > 1


def test_chunks_are_filled(tokenizer):
    chunks = chunk_document(Document(TEXT), tokenizer, 30)
    assert [chunk.text for chunk in chunks] == [
        "Alpha beta gamma. Dr. Who ran!",
        "Is it so? Yes it is so.",
        "End of text.",
    ]


def test_overlap_starts_on_a_sentence(tokenizer):
    chunks = chunk_document(Document(TEXT), tokenizer, 40, overlap=14)
    assert [chunk.text for chunk in chunks] == [
        "Alpha beta gamma. Dr. Who ran! Is it so?",
        "Is it so? Yes it is so. End of text.",
    ]


def test_title_and_metadata(tokenizer):
    document = Document(TEXT, "T", "7", {"year": 1999})
    chunks = chunk_document(document, tokenizer, 20)
    assert {(chunk.title, chunk.source_id) for chunk in chunks} == {("T", "7")}
    assert [chunk.metadata["chunk"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].metadata == {"year": 1999, "parent": document.id, "chunk": 0}
    assert document.metadata == {"year": 1999}


def test_document_that_fits_keeps_its_id(tokenizer):
    document = Document(TEXT, "T")
    assert [chunk.id for chunk in chunk_document(document, tokenizer, 500, 20)] == [document.id]


@pytest.mark.parametrize("overlap", [0, 9])
def test_long_sentence_is_cut_between_words_and_long_word_between_characters(tokenizer, overlap):
    text = "Short one. " + "word " * 9 + "x" * 50 + " end. Last one."
    chunks = [c.text for c in chunk_document(Document(text), tokenizer, 16, overlap)]
    assert all(len(chunk) <= 16 for chunk in chunks)
    assert "".join(chunks).replace(" ", "") == text.replace(" ", "")
    assert "word word word" in chunks


@pytest.mark.parametrize("overlap", [0, 5, 15, 29])
def test_no_chunk_lies_within_another(tokenizer, overlap):
    chunks = [c.text for c in chunk_document(Document(TEXT * 3), tokenizer, 30, overlap)]
    assert len(chunks) < 40
    assert all(a not in b for i, a in enumerate(chunks[:-1]) for b in chunks[i + 1 : i + 2])


def test_many_documents(tokenizer):
    documents = [Document(TEXT, "a"), Document("Short.", "b")]
    chunks = chunk_documents(documents, tokenizer, 30)
    assert [chunk.title for chunk in chunks] == ["a", "a", "a", "b"]


@pytest.mark.parametrize(("max_tokens", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_wrong_sizes(tokenizer, max_tokens, overlap):
    with pytest.raises(ValueError, match=rf"got max_tokens {max_tokens} and overlap {overlap}"):
        chunk_document(Document(TEXT), tokenizer, max_tokens, overlap)


class WordTokenizer:
    """One token a word, and one more for a word without a space before it, as byte-level BPE."""

    added_tokens_decoder: dict = {}  # noqa: RUF012 (nobody changes it)

    def __len__(self):
        return 1

    def __call__(self, texts, **_):
        one = isinstance(texts, str)
        rows = [
            [0] * (len(text.split()) + bool(text.strip() and not text[0].isspace()))
            for text in ([texts] if one else texts)
        ]
        return {"input_ids": rows[0] if one else rows}


@pytest.mark.parametrize("text", ["w " * 30, "A b c d. " * 10])
def test_first_word_that_takes_more_tokens_still_fits(text):
    chunks = chunk_document(Document(text.strip()), WordTokenizer(), 5)
    assert all(len(WordTokenizer()(chunk.text)["input_ids"]) <= 5 for chunk in chunks)
    assert " ".join(chunk.text for chunk in chunks) == text.strip()
