"""Views for serving engines: a store goes in, flat PEFT folders with linked weights come out.

An engine with dynamic LoRA loading (vLLM, SGLang) is given one such folder an adapter. It refuses
those whose base model it was not started with, and those of a higher rank than its limit.
"""

from __future__ import annotations

from pathlib import Path

from prag_core.adapters.store import AdapterStore
from prag_core.formats.peft_folder import require_empty, to_peft


def view_store(
    store: AdapterStore, to: str | Path, engine_model: str, max_rank: int = 0, prefix: str = ""
) -> int:
    """Write a folder a key below `to`; weights of adapters in packs are written, others linked.

    Args:
        store: what to show.
        to: new or empty folder.
        engine_model: the base model's name or folder, as the engine was started with.
        max_rank: the engine's limit, e.g. vLLM's `--max-lora-rank`; 0 for none.
        prefix: keys that begin with it.

    Returns:
        the number of folders.

    Raises:
        ValueError: `to` has content, a rank above the limit, or damaged bytes.
    """
    to = Path(to)
    require_empty(to)
    count = 0
    # Read one by one: a view of a large store never holds more than one adapter in memory.
    for key in store.keys(prefix):
        adapter = store.get(key)
        # An engine would refuse it later, in the middle of serving.
        if max_rank and adapter.rank > max_rank:
            raise ValueError(
                f"got adapter {key!r} of rank {adapter.rank}, expected at most {max_rank}: start "
                "the engine with a higher limit, or make adapters of a smaller rank"
            )
        to_peft(adapter, to / key, engine_model, store.weights_path(key))
        count += 1
    return count
