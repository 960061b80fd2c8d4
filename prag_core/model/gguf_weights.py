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
from prag_core.model.checkpoints import SUPPORTED, require_weights


def embedded_model_folder(name: str, sources: Sequence[str] = catalogue.SOURCES) -> Path:
    """Return the folder of a model of the catalogue; fetch and convert it on first use.

    Raises:
        FileNotFoundError, ValueError: as `fetch_gguf`.
    """
    entry = catalogue.CATALOGUE[name]
    return _converted(name, lambda scratch: catalogue.fetch_gguf(entry, scratch, sources))


def gguf_model_folder(path: Path) -> Path:
    """Return the cached folder of a GGUF file; convert it on first use.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or a model that is not supported.
    """
    if not path.is_file():
        raise FileNotFoundError(f"got no file at {path}, expected a GGUF model: check the path")

    def checked(scratch: Path) -> Path:
        require_model(path)
        return path

    return _converted(f"{path.stem}-{catalogue.file_sha256(path)[:16]}", checked)


def require_model(path: Path) -> None:
    """Raise ValueError unless a GGUF file is whole, and one language model that is supported."""
    from gguf import GGUFReader  # deferred: slow to import

    try:
        fields = GGUFReader(path).fields
    except Exception as error:  # a damaged file ends in whatever its next bytes happen to mean
        raise ValueError(
            f"got a damaged {path} of {path.stat().st_size} bytes ({error}), expected a GGUF "
            "model: download it again"
        ) from error
    facts = {}  # as bytes
    for key in ("general.architecture", "general.type", "split.count"):
        if (field := fields.get(key)) is not None:
            facts[key] = field.parts[field.data[0]].tobytes()
    architecture = facts.get("general.architecture", b"").decode()
    # transformers reads no GGUF file of the first Gemma.
    supported = [name.removesuffix("_text") for name in SUPPORTED if name != "gemma"]
    experts = fields.get(f"{architecture}.expert_count")
    for wrong, got, remedy in (
        (facts.get("general.type") == b"adapter", "an adapter",
         "import it with `store import --format gguf`"),
        (int.from_bytes(facts.get("split.count", b""), "little") > 1, "a part of a model",
         "join the parts with `llama-gguf-split --merge`"),
        (architecture not in supported, f"architecture {architecture!r}", "take one of those"),
        (experts is not None and experts.parts[experts.data[0]][0] > 0, "a mixture of experts",
         "take a dense model"),
    ):  # fmt: skip
        if wrong:
            raise ValueError(
                f"got {got} ({path}), expected a whole GGUF model of architecture "
                f"{', '.join(supported)}: {remedy}"
            )


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
    loaded, info = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, output_loading_info=True
    )
    require_weights(path.name, info)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if isinstance(end := loaded.config.eos_token_id, int):  # some releases name another token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype"):
        settings.pop(name, None)
    # Another model of the same tensors: one loaded from GGUF refuses save_pretrained.
    with torch.device("meta"):
        model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    del loaded  # or its float32 tensors would stay beside those in bfloat16
    folder = scratch / "folder"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes for its user alone, but a cache may be shared.
    for file in folder.iterdir():
        file.chmod((folder / "config.json").stat().st_mode)
    os.rename(folder, target)
