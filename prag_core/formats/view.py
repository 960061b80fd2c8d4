"""Views for serving engines: a store goes in, flat PEFT folders with linked weights come out.

An engine with dynamic LoRA loading (vLLM, SGLang) is given one such folder an adapter. It refuses
those whose base model it was not started with, and those of a higher rank than its limit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.store import AdapterStore, DamagedError
from prag_core.formats.peft_folder import require_empty, to_peft

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank may be


def view_store(
    store: AdapterStore,
    to: str | Path,
    engine_model: str,
    max_rank: int = VLLM_RANKS[-1],
    prefix: str = "",
    rank: int = 0,
) -> tuple[int, list[str]]:
    """Write a folder a key below `to`; weights of adapters in packs are written, others linked.

    Args:
        store: what to show.
        to: new or empty folder.
        engine_model: the base model's name or folder, as the engine was started with.
        max_rank: the engine's limit, e.g. vLLM's `--max-lora-rank`, of which 512 is the largest; 0
            for none.
        prefix: keys that begin with it.
        rank: cut adapters to this rank on average; 0: as they are.

    Returns:
        the number of folders, and what was left out as damaged, a line each.

    Raises:
        ValueError: `to` has content, a key that is no name of a folder, a rank above the limit, or
            no key that begins so.
    """
    to = Path(to)
    require_empty(to)
    written: list[Path] = []
    damaged: list[str] = []
    try:
        # Read one by one: a view of a large store never holds more than one adapter in memory.
        for key in store.keys(prefix):
            _require_folder_name(key)
            try:
                adapter = cut_rank(store.get(key), rank)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            # An engine would refuse it later, in the middle of serving.
            require_rank(key, adapter, max_rank)
            written.append(to_peft(adapter, to / key, engine_model, store.weights_path(key)))
    except BaseException:  # half a view would be in the way of the next try
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not written and not damaged:
        raise ValueError(
            f"got no key that begins with {prefix!r} in {store.path}, expected one or more: see "
            "`prag store list`"
        )
    return len(written), damaged


def _require_folder_name(key: str) -> None:
    """Raise ValueError for a key that would be a folder elsewhere than in the view."""
    if key != Path(key).name or key == "..":
        raise ValueError(
            f"got key {key!r}, expected one that is the name of a folder: put its adapter under "
            "another key (`prag store export`, `import`, `delete`), or name others by --key"
        )


def cut_rank(adapter: Adapter, rank: int) -> Adapter:
    """Return the adapter at `rank` on average; 0: as it is.

    Raises:
        ValueError: no row is left for the document.
    """
    return reduce_rank(adapter, rank) if rank else adapter


def fit_rank(adapter: Adapter, max_rank: int) -> Adapter:
    """Return the adapter cut so far that no module has more than `max_rank` rows.

    Raises:
        ValueError: no row is left for the document.
    """
    fitted, rank = adapter, max_rank
    while fitted.rank > max_rank:  # `reduce_rank` keeps so many on average, and more in some
        fitted = reduce_rank(adapter, rank)
        rank = rank * max_rank // max(fitted.rank, max_rank + 1)
    return fitted


def require_rank(
    key: str, adapter: Adapter, max_rank: int, setting: str = "--max_rank ", remedy: str = ""
) -> None:
    """Raise ValueError where a module has more rows than an engine takes.

    Args:
        key: of the adapter, for the error.
        adapter: to be checked.
        max_rank: the most that the engine takes; 0: any.
        setting: where the user says so, up to the number.
        remedy: how it is cut; by the option `--rank` when omitted.
    """
    if not max_rank or adapter.rank <= max_rank:
        return
    path = max(adapter.tensors, key=lambda path: len(adapter.tensors[path][0]))
    start = next((limit for limit in VLLM_RANKS if adapter.rank <= limit), None)
    remedy = remedy or (
        f"cut it with --rank {max(1, max_rank // 2)} or less (the mean of all modules; a single "
        "one may keep more)"
    )
    if start:
        remedy = f"start vLLM with --max-lora-rank {start} and set {setting}{start}, or {remedy}"
    raise ValueError(
        f"got adapter {key!r} of rank {adapter.rank} (at {path}), expected at most {max_rank}: "
        f"{remedy}"
    )
