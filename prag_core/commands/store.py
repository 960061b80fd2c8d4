"""Store: look into a store of adapters, check it, move adapters in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from prag_core.adapters.store import AdapterStore
from prag_core.formats.gguf_file import from_gguf, to_gguf
from prag_core.formats.peft_folder import from_peft, to_peft
from prag_core.model.base_model import EMBEDDED_NAME, load_base_model

STORE = "runs/store"


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
    with AdapterStore(path if action == "import" else existing_store(path)) as opened:
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


def existing_store(path: str) -> str:
    """Return the path, or raise FileNotFoundError where no store is."""
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
