"""Retrieval: a question goes in, the k best documents with their scores come out.

`Retriever` is the protocol; BM25 by rank_bm25, or bm25s for large corpora.
"""
