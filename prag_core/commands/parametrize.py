"""Parametrize: documents go in, or stand in the store; a store holds their adapters."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from prag_core.commands.store import STORE
from prag_core.corpus.chunking import CHUNK_TOKENS, chunk_document
from prag_core.corpus.documents import Document, read_documents, require_all_read
from prag_core.files import is_url, local_place, locked, write_json
from prag_core.pipeline.setup import RayOptions, Setup
from prag_core.terminal import progress_bar

CONFIG, CORPUS = "config.json", "corpus.json"


def parametrize(
    setup: Setup,
    corpus: str = "",
    store: str = STORE,
    skip_bad: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
    chunk_overlap: int = 0,
    replace: bool = False,
    encoding: str = "",
    shard: int = 0,
    num_shards: int = 1,
    runner: Literal["serial", "ray"] = "serial",
    ray: RayOptions = RayOptions(),  # noqa: B008 (frozen)
    block: int = 1024,
) -> None:
    """Turn documents into adapters; what the store has already is skipped.

    The resolved settings are written to config.json beside the store, the corpus that came last and
    how it was cut to corpus.json. With `num_shards`, as in an array of jobs, each job takes its
    part of the same corpus and writes a store of its own, STORE/0-of-4 say; all commands read STORE
    as one. See prag_core/adapters/README.md for this, for urls and for Ray.

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
        replace: remove the store's other documents that have the id of a new one: of a record its
            `id`, of a text, Markdown, HTML, PDF or Word file its path as named here.
        encoding: of files that are not UTF-8 and do not say what they are, e.g. cp1252.
        shard: number of this part, from 0 (e.g. $SLURM_ARRAY_TASK_ID, $JOB_COMPLETION_INDEX).
        num_shards: parts that the corpus is divided into, by the hash of the document.
        runner: serial, or ray: actors of a Ray cluster write blocks of documents as shards. So
            does serial where STORE is a url (s3://bucket/prefix) or a folder that holds shards.
        ray: the actors.
        block: documents of a block, a pack each: what whoever is killed loses at most.
    """
    from prag_core.adapters.shards import open_shards, open_store
    from prag_core.pipeline.rag import assemble

    store, in_blocks = _place(local_place(store), shard, num_shards, runner)
    if (replace and (in_blocks or num_shards > 1)) or (in_blocks and not corpus):
        raise ValueError(
            f"got {'replace' if replace else 'no corpus'} for shards, which are not changed, "
            "expected a corpus to add: name one, or a single store"
        )
    if not corpus:
        return _complete(setup, store)
    counts: Counter[str] = Counter()
    whole = read_documents(corpus, skip_bad, counts, encoding)
    opened = open_shards(store, create=True) if in_blocks else open_store(store)
    # One writer at a time, but where all is in one store, which many may change at once.
    shared = is_url(store) or not (in_blocks or num_shards > 1)
    if in_blocks and not shared:
        Path(store).mkdir(parents=True, exist_ok=True)
    with opened, nullcontext() if shared else locked(Path(store)):
        # With all documents, whose ids or titles a file of question-answer pairs may name.
        rag = assemble(setup, opened, whole)
        # By the hash of the whole: a document's chunks stay together, whoever cuts them.
        documents = [d for d in whole if int(d.id, 16) % num_shards == shard]
        sizes = chunk_tokens, chunk_overlap
        documents, cut = _chunked(rag, documents, *sizes) if chunk_tokens else (documents, 0)
        with progress_bar("documents", len(documents)) as advance:
            if in_blocks:
                _write_blocks(rag, documents, whole, store, runner, ray, block, advance)
            elif documents or num_shards == 1:  # of few documents a shard may have none
                rag.add_documents(documents, advance, replace=replace)
    with open_store(store, create=False) as opened:
        stats = opened.stats()  # of the whole store, earlier documents included
    sizes = {"chunk_tokens": chunk_tokens, "chunk_overlap": chunk_overlap}
    _keep(store, CONFIG, asdict(rag.setup or setup))
    _keep(store, CORPUS, {"corpus": corpus, **sizes})
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


def _keep(store: str, name: str, record: Mapping[str, object]) -> None:
    """Write how a store was made beside it, unless it lies at a url."""
    if not is_url(store):
        write_json(Path(store) / name, record)


def _place(store: str, shard: int, num_shards: int, runner: str) -> tuple[str, bool]:
    """Return where to write, and whether in blocks, each a shard of its own."""
    from prag_core.adapters.shards import holds_shards, require_place

    if not 0 <= shard < num_shards:
        raise ValueError(
            f"got shard {shard} of {num_shards}, expected 0 to num_shards - 1: correct it"
        )
    if runner == "ray" or num_shards > 1:
        require_place(store)
    if runner == "ray" or is_url(store) or (num_shards == 1 and holds_shards(store)):
        return store, True
    if num_shards > 1:
        return str(Path(store) / f"{shard}-of-{num_shards}"), False
    return store, False


def _write_blocks(
    rag: Any,
    documents: Sequence[Document],
    corpus: Sequence[Document],
    place: str,
    runner: str,
    ray: RayOptions,
    block: int,
    advance: Callable[[int], None],
) -> None:
    """Let a runner write what a place lacks; ValueError where it would be refused there."""
    from prag_core.adapters.shards import require_kind
    from prag_core.pipeline.blocks import BlockWriter, missing_blocks, run_ray, run_serial, take

    blocks = missing_blocks(documents, rag.parametrizer, rag.store, block)
    done = len(documents) - sum(map(len, blocks))
    advance(done)
    if not blocks:
        return
    require_kind(rag.store, rag.parametrizer)
    if not is_url(place):
        shutil.rmtree(Path(place) / "tmp", ignore_errors=True)  # of a driver that was killed
    results = run_serial(BlockWriter(rag.parametrizer, place), blocks)
    if runner == "ray":
        results = run_ray(rag.setup, place, blocks, corpus, ray)
    take(results, lambda count: advance(done + count), len(documents))


def _chunked(
    rag: Any, documents: list[Document], chunk_tokens: int, overlap: int
) -> tuple[list[Document], int]:
    """Cut long documents by tokens of the base model; returns all, and how many were cut."""
    sizes = rag.base.tokenizer, chunk_tokens, overlap
    parts = [[d] if d.id in rag.documents else chunk_document(d, *sizes) for d in documents]
    return [chunk for part in parts for chunk in part], sum(len(part) > 1 for part in parts)


def _complete(setup: Setup, store: str) -> None:
    """Make the adapters that documents of the store lack."""
    from prag_core.pipeline.rag import build_pipeline

    with build_pipeline(setup, store, create=False) as rag:
        missing = rag.without_adapter()
        with progress_bar("documents", len(missing)) as advance:
            rag.ensure_adapters(missing, advance)
        _keep(store, CONFIG, asdict(rag.setup or setup))
        print(f"{len(missing)} of {len(rag.documents)} documents in {store} had no adapter")
