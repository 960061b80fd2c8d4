"""Store: an action and a store go in; it is looked into, kept in order, shown to other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from prag_core.adapters.names import GRACE
from prag_core.corpus.chunking import whole_id
from prag_core.model.catalogue import CATALOGUE, EMBEDDED_NAME
from prag_core.terminal import progress_bar

STORE = "runs/store"
# These open a store that cannot be written too, or many shards as one.
READING = ("list", "verify", "view", "export", "push")


def store(
    action: Literal[
        "list", "verify", "sweep", "reindex", "view", "delete", "forget", "export", "import", "push"
    ],
    path: str = STORE,
    key: str = "",
    to: str = "",
    source: str = "",
    format: Literal["peft", "gguf"] = "peft",
    base_model: str = "",
    engine_model: str = "",
    max_rank: int = 0,
    rank: int = 0,
    part: Literal["whole", "own", "shared"] = "whole",
    grace: float = GRACE,
) -> None:
    """Look into a store, check it, keep it in order, and move adapters in and out.

    Args:
        action: list, verify, sweep (remove what was deleted or replaced), reindex (rebuild the
            index from the folders), view (folders for a serving engine), delete (an adapter),
            forget (a document, whose id is the key, with all that was made from it; the id of one
            that was cut stands for all its chunks), export (a key), import (a source, as a key) or
            push (copy to a place, as shards, what it lacks).
        path: folder of the adapter store; list, verify, view, export and push also take a folder
            of shards or a url.
        key: the adapter; a beginning that only one key has is enough. view: all that begin so.
            export: several are merged, as KEY+KEY or, with weights, KEY+KEY@1,0.5.
        to: view, export: folder, or file (gguf), to write. push: url (s3://bucket/prefix) or folder
            of shards.
        source: import: PEFT folder or GGUF file to read.
        format: PEFT folder or GGUF LoRA file.
        base_model: the model that the adapters belong to; export: that of the catalogue with their
            fingerprint when empty; import: the embedded one. A PEFT folder names it in
            base_model_name_or_path: models of the catalogue and GGUF files by their folder in the
            cache, so that AutoPeftModelForCausalLM loads both. A GGUF LoRA file names its
            architecture, so that the model is loaded and must be the right one.
        engine_model: view: the base model's name, as the serving engine was started with.
        max_rank: view, export: the serving engine's limit, e.g. vLLM's --max-lora-rank; 0: 512,
            the most that vLLM takes, and none for a GGUF file.
        rank: view, export: cut adapters to this rank on average (see `reduce_rank`); 0: as is.
        part: export: all rows, or of an adapter with rows that all documents share only the
            document's `own` ones or the `shared` ones: a program that sums whole adapters would
            count the latter once for each.
        grace: sweep: seconds that files must have lain unused; 0 where no one else has it open.
    """
    from prag_core.adapters.shards import holds_shards, open_store
    from prag_core.adapters.store import AdapterStore, reindex
    from prag_core.files import local_place
    from prag_core.formats.gguf_file import from_gguf
    from prag_core.formats.merge_name import whole_key
    from prag_core.formats.peft_folder import from_peft
    from prag_core.model.base_model import load_base_model

    path = local_place(path)
    if action not in READING and holds_shards(path):
        raise ValueError(
            f"got {path}, which holds shards, expected one store to {action}: name one of them"
        )
    if action == "reindex":  # works where the index cannot be opened
        print(f"{reindex(path)} adapters in the index of {path}")
        with AdapterStore(path) as opened:
            if len(opened) and not opened.stats()["records"]:
                print(
                    "the texts of the documents were in the old index alone: run `prag parametrize`"
                    " with the same documents; their adapters are kept"
                )
        return
    if action not in (*READING, "import"):
        AdapterStore(path, readonly=None)  # never makes a new one: a wrong path is an error
    reads = action in READING
    with open_store(path, create=False) if reads else AdapterStore(path) as opened:
        if action == "list":  # from the index alone: no adapter is read
            for row in opened.rows():
                print(row.key, " ".join(row.metadata.get("title", "").split()), sep="\t")
            print(json.dumps(opened.stats()))
        elif action == "verify":
            _verify(opened)
        elif action == "sweep":
            print(f"{opened.sweep(grace):,} bytes freed")
        elif action == "view":
            _view(opened, to, engine_model, max_rank, key, rank)
        elif action == "push":
            _push(opened, to)
        elif action == "delete":
            opened.delete(whole_key(opened.keys(), key))  # its files go with the next sweep
        elif action == "forget":
            _forget(opened, key)
        elif action == "export":
            _export(opened, key, to, format, base_model, max_rank, rank, part)
        else:
            read = from_peft if format == "peft" else from_gguf
            if not key or not source:
                raise ValueError("got no key or no source, expected both: set --key and --source")
            opened.put(key, read(source, load_base_model(base_model or EMBEDDED_NAME)))


def _verify(opened: Any) -> None:
    """Print what is damaged, which is an error, and which documents have no adapter, which is not.

    Documents without adapter are those whose parametrization was cut short, or never asked for.
    """
    lines = opened.verify()
    print("\n".join(lines) or f"{len(opened)} adapters, all sound")
    for document_id in opened.documents_without_adapter():
        print(
            f"document {document_id} has no adapter: parametrize it again, or leave it to "
            f"`prag store forget --path {opened.path} --key {document_id}`"
        )
    if lines:
        raise ValueError(
            f"got {len(lines)} damaged entries in {opened.path} (above), expected none: do what "
            "each line says"
        )


def _forget(opened: Any, key: str) -> None:
    """Forget a document, all chunks of one that was cut, or one of them, with what was made."""
    from prag_core.formats.merge_name import whole_key
    from prag_core.pipeline.rag import forget_made, stored_documents

    wholes = {document.id: whole_id(document) for document in stored_documents(opened)}
    named = whole_key({*opened.record_keys("document"), *wholes.values()}, key)
    ids = [i for i in opened.record_keys("document") if named in (i, wholes.get(i))]
    forget_made(opened, ids)
    for document_id in ids:  # last: what is cut short can be asked for again
        opened.delete_record("document", document_id)
    print(f"{len(ids)} documents forgotten" if len(ids) > 1 else "1 document forgotten")


def _view(opened: Any, to: str, engine_model: str, max_rank: int, key: str, rank: int) -> None:
    from prag_core.formats.view import VLLM_RANKS, view_store

    if not to or not engine_model:
        raise ValueError("got no target or no engine's model, expected --to and --engine_model")
    # Hard links: a view takes no room, and stays as it is when the store changes.
    count, damaged = view_store(opened, to, engine_model, max_rank or VLLM_RANKS[-1], key, rank)
    print(f"{count} adapters of {engine_model} in {Path(to)}", *damaged, sep="\n")
    if damaged:
        raise ValueError(
            f"got {len(damaged)} damaged adapters in {opened.path} (above), which the view leaves "
            "out, expected none: do what each line says"
        )


def _push(opened: Any, to: str) -> None:
    from prag_core.adapters.shards import push

    if not to:
        raise ValueError("got no target, expected a url or folder of shards: set --to")
    with progress_bar("adapters", len(opened)) as advance:
        count = push(opened, to, advance)
    print(f"{count} adapters copied to {to}")  # not within the bar, which takes what is printed


def _export(
    opened: Any,
    key: str,
    to: str,
    format: str,
    base_model: str,
    max_rank: int,
    rank: int,
    part: Literal["whole", "own", "shared"],
) -> None:
    from prag_core.formats.gguf_file import to_gguf
    from prag_core.formats.merge_name import named_adapter
    from prag_core.formats.peft_folder import to_peft
    from prag_core.formats.view import VLLM_RANKS, cut_rank, require_rank
    from prag_core.model.base_model import load_base_model, transformers_name

    if not to:
        raise ValueError("got no target, expected a folder or file: set --to")
    adapter = named_adapter(opened, key)
    adapter = cut_rank(adapter if part == "whole" else adapter.part(part), rank)
    base_model = _base_name(base_model, adapter.spec.base_model)
    if format == "peft":
        limit = max_rank or VLLM_RANKS[-1]
        remedy = (
            f"set --max_rank {adapter.rank} where the program takes it (PEFT does), or cut it with "
            f"--rank {max(1, limit // 2)} or less"
        )
        require_rank(key, adapter, limit, remedy=remedy)
        # A name of the catalogue is known here alone: other programs get the folder that it means.
        print(to_peft(adapter, to, transformers_name(base_model)))
        return
    require_rank(key, adapter, max_rank)  # llama.cpp has no limit of its own
    base = load_base_model(base_model)
    adapter.spec.require_base(base.fingerprint)
    print(to_gguf(adapter, to, base.model.config.model_type))


def _base_name(name: str, fingerprint: str) -> str:
    """Return the name of an adapter's base model: the one given, else that of the catalogue.

    Raises:
        ValueError: a model of the catalogue with another fingerprint, or none with this one.
    """
    known = {entry.fingerprint: entry.name for entry in CATALOGUE.values()}
    if name in CATALOGUE and known.get(fingerprint) != name:
        raise ValueError(
            f"got base model {name}, expected the one that the adapter was made for "
            f"({fingerprint}): name it in --base_model"
        )
    if not name and fingerprint not in known:
        raise ValueError(
            f"got an adapter of the base model {fingerprint}, which the catalogue does not have, "
            "expected its name: set --base_model"
        )
    return name or known[fingerprint]
