"""Parametrize: documents go in, or stand in the store; a store holds their adapters."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from prag_core.commands.store import STORE
from prag_core.corpus.chunking import CHUNK_TOKENS, chunk_document
from prag_core.corpus.documents import read_documents, require_all_read
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup
from prag_core.terminal import progress_bar


def parametrize(
    setup: Setup,
    corpus: str = "",
    store: str = STORE,
    skip_bad: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
    chunk_overlap: int = 0,
    replace: bool = False,
    encoding: str = "",
) -> None:
    """Turn documents into adapters; what the store has already is skipped.

    The resolved settings are written to config.json beside the store.

    Args:
        setup: shared settings.
        corpus: file (jsonl, json, tsv, csv, txt, md, html, pdf, docx; also .gz), folder, or "-" for
            standard input; none: documents that the store keeps without an adapter. Files of a
            folder that cannot be read are named and left out; the exit status is 2 then, once the
            others are done, unless skip_bad.
        store: folder of the adapter store.
        skip_bad: leave out and count malformed records instead of stopping at the first.
        chunk_tokens: cut longer documents into chunks of at most so many tokens, an adapter each:
            three of them may answer more about a long text than one of the whole. 0 does not cut;
            what the store holds whole stays whole.
        chunk_overlap: tokens that neighbouring chunks share.
        replace: remove the store's other documents that have the id of a new one.
        encoding: of files that are not UTF-8 and do not say what they are, e.g. cp1252.
    """
    from prag_core.pipeline.rag import build_pipeline

    if not corpus:
        return _complete(setup, store)
    counts: Counter[str] = Counter()
    cut = 0  # documents that became chunks
    documents = read_documents(corpus, skip_bad, counts, encoding)
    # With the documents, whose ids or titles a file of question-answer pairs may name.
    with build_pipeline(setup, store, documents) as rag:
        if chunk_tokens:  # here, as tokens are those of the base model
            sizes = rag.base.tokenizer, chunk_tokens, chunk_overlap
            parts = [[d] if d.id in rag.documents else chunk_document(d, *sizes) for d in documents]
            cut = sum(len(part) > 1 for part in parts)
            documents = [chunk for part in parts for chunk in part]
        with progress_bar("documents", len(documents)) as advance:
            rag.add_documents(documents, advance, replace=replace)
        stats = rag.store.stats()  # of the whole store, earlier documents included
    write_json(Path(store) / "config.json", asdict(rag.setup or setup))
    if cut:
        print(
            f"{cut} documents of more than {chunk_tokens} tokens were cut into chunks, an adapter "
            "each (--chunk_tokens 0 keeps them whole)"
        )
    print(
        f"{len(documents)} documents, {counts['bad']} bad and {counts['duplicate']} duplicate "
        f"records and {counts['left_out']} files left out; "
        f"{store} holds {stats['count']} adapters, {stats['bytes']:,} bytes"
    )
    require_all_read(corpus, skip_bad, counts)  # last: the others are there


def _complete(setup: Setup, store: str) -> None:
    """Make the adapters that documents of the store lack."""
    from prag_core.pipeline.rag import build_pipeline

    with build_pipeline(setup, store, create=False) as rag:
        missing = rag.without_adapter()
        with progress_bar("documents", len(missing)) as advance:
            rag.ensure_adapters(missing, advance)
        print(f"{len(missing)} of {len(rag.documents)} documents in {store} had no adapter")
