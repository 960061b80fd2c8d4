"""Factory: the name of a retriever goes in, a retriever over some documents comes out."""

from __future__ import annotations

from collections.abc import Iterable

from prag_core.corpus.documents import Document
from prag_core.retrieval.bm25 import BM25Retriever


def make_retriever(name: str = "auto", documents: Iterable[Document] = ()) -> BM25Retriever:
    """Build a retriever: `bm25` (rank_bm25), `bm25s`, or `auto` (bm25s above 20,000 documents).

    Raises:
        ValueError: an unknown name.
    """
    return BM25Retriever(documents, name)
