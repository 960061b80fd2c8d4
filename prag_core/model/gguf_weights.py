"""GGUF weights: a model as llama.cpp has it goes in, a transformers folder in the cache comes out.

Reading a quantised GGUF file takes from 20 seconds to minutes; the folder that is kept, in
bfloat16, loads at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from errno import EACCES
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prag_core.model import catalogue


def embedded_model_folder(name: str, sources: Sequence[str] = catalogue.SOURCES) -> Path:
    """Return the folder of a model of the catalogue; fetch and convert it on first use.

    Raises:
        FileNotFoundError, ValueError: as `fetch_gguf`.
    """
    entry = catalogue.CATALOGUE[name]
    return _converted(name, lambda scratch: catalogue.fetch_gguf(entry, scratch, sources))


def gguf_model_folder(path: Path) -> Path:
    """Return the cached folder of a GGUF file; convert it on first use."""
    if not path.is_file():
        raise FileNotFoundError(f"got no file at {path}, expected a GGUF model: check the path")
    return _converted(f"{path.stem}-{catalogue.file_sha256(path)[:16]}", lambda scratch: path)


def _converted(name: str, gguf: Callable[[Path], Path]) -> Path:
    """Return a folder of the cache; where it is not there, `gguf` gives the file to convert."""
    target = catalogue.cache_folder() / name
    if not is_complete(target):
        with catalogue.sole_writer(target) as scratch:
            if not is_complete(target):  # else another process has made it meanwhile
                convert_gguf(gguf(scratch), scratch, target)
            shutil.rmtree(scratch)
    for file in target.iterdir():
        if not os.access(file, os.R_OK):  # transformers would say that it is not there
            raise PermissionError(EACCES, os.strerror(EACCES), str(file))
    return target


def is_complete(folder: Path) -> bool:
    """Tell whether a converted model lies there; it appears whole, by a rename."""
    return (folder / "config.json").exists()


def convert_gguf(path: Path, scratch: Path, target: Path) -> None:
    """Dequantise a GGUF file into a transformers folder, written in `scratch`, then renamed."""
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if isinstance(end := loaded.config.eos_token_id, int):  # some releases name another token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype"):
        settings.pop(name, None)
    # A copy: a model loaded from GGUF refuses save_pretrained.
    model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict())
    folder = scratch / "folder"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes for its user alone, but a cache may be shared.
    for file in folder.iterdir():
        file.chmod((folder / "config.json").stat().st_mode)
    os.rename(folder, target)
