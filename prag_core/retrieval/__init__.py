"""Retrieval: a question goes in, the k best documents with their scores come out.

`Retriever` is the protocol. By words: BM25 of rank_bm25, or bm25s for large corpora; by meaning:
`dense`; by both: `hybrid`. A question that nothing matches has no documents.
"""
