"""Factory: the name of a retriever goes in, a retriever over some documents comes out.

auto, bm25, bm25s    by words: rank_bm25, bm25s, or `auto`, bm25s above 20,000 documents where it is
                     installed
dense                by meaning: static word vectors of the package wordllama
dense:MODEL          by meaning: a model of sentence-transformers, hub name or local folder, which
                     reads the beginning of a document alone (many models 256 or 512 tokens)
hybrid, hybrid:MODEL `auto` and `dense` (or `dense:MODEL`), fused by rank
lancedb, lancedb:URI, elasticsearch:URL/INDEX  by words, in other programs (see `search_index`)
"""

from __future__ import annotations

from collections.abc import Iterable

from prag_core.corpus.documents import Document
from prag_core.retrieval.bm25 import ENGINES, LEAST_COVERAGE, BM25Retriever
from prag_core.retrieval.dense import (
    LEAST_SIMILARITY,
    DenseRetriever,
    SentenceEmbedder,
    StaticEmbedder,
)
from prag_core.retrieval.hybrid import HybridRetriever
from prag_core.retrieval.retriever import Retriever
from prag_core.retrieval.search_index import ElasticIndex, IndexRetriever, LanceIndex


def make_retriever(
    name: str = "auto",
    documents: Iterable[Document] = (),
    least_coverage: float = LEAST_COVERAGE,
    least_similarity: float = LEAST_SIMILARITY,
) -> Retriever:
    """Build a retriever.

    Args:
        name: as above.
        documents: the first documents.
        least_coverage: share of a question that a document needs, by words (see `bm25`).
        least_similarity: cosine that a document needs to be found by meaning.

    Raises:
        ValueError: an unknown name, a package that is missing, or a share or cosine out of range.
        OSError: a server that does not answer.
        FileNotFoundError: no such embedding model.
    """
    check_name(name)
    kind, _, model = name.partition(":")
    if kind in ENGINES:
        return BM25Retriever(documents, name, least_coverage)
    if kind == "lancedb":
        return IndexRetriever(LanceIndex(model), documents)
    if kind == "elasticsearch":
        return IndexRetriever(ElasticIndex(model), documents)
    embedder = SentenceEmbedder(model) if model else StaticEmbedder()
    if kind == "dense":
        return DenseRetriever(documents, embedder, least_similarity)
    meaning = DenseRetriever((), embedder, least_similarity)
    return HybridRetriever(BM25Retriever((), "auto", least_coverage), meaning, documents)


def check_name(name: str) -> None:
    """Raise ValueError for a name that no retriever has; nothing is loaded."""
    kind, colon, model = name.partition(":")
    if kind in ("dense", "hybrid", "lancedb"):  # with or without more
        known = bool(colon) == bool(model)
    else:
        known = name in ENGINES or (kind == "elasticsearch" and model.count("/") == 3)
    if not known:
        raise ValueError(
            f"got retriever {name!r}, expected one of {', '.join(ENGINES)}, dense, dense:MODEL, "
            "hybrid, hybrid:MODEL (a model of sentence-transformers), lancedb, lancedb:URI, "
            "elasticsearch:URL/INDEX: correct the name"
        )
