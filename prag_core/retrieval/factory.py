"""Factory: the name of a retriever goes in, a retriever over some documents comes out."""

from __future__ import annotations

from collections.abc import Iterable

from prag_core.corpus.documents import Document
from prag_core.retrieval.bm25 import LEAST_COVERAGE, BM25Retriever


def make_retriever(
    name: str = "auto",
    documents: Iterable[Document] = (),
    least_coverage: float = LEAST_COVERAGE,
) -> BM25Retriever:
    """Build a retriever: `bm25` (rank_bm25), `bm25s`, or `auto` (bm25s above 20,000 documents).

    Args:
        name: of the retriever.
        documents: the first documents.
        least_coverage: share of a question that a document needs (see `bm25`).

    Raises:
        ValueError: an unknown name, or a share that is none.
    """
    return BM25Retriever(documents, name, least_coverage)
