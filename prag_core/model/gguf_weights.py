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
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from prag_core.model import catalogue
from prag_core.model.checkpoints import SUPPORTED, require_weights

if TYPE_CHECKING:
    from gguf import GGUFReader

VERSION = 2  # of what is refused and written; a file's folder of another version is not read
MARK = "Mira"  # an answer, behind which the chat template writes what ends it


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

    return _converted(f"{path.stem}-{catalogue.file_sha256(path)[:16]}-v{VERSION}", checked)


def require_model(path: Path) -> None:
    """Raise ValueError unless a GGUF file is whole, and one language model that is supported."""
    from gguf import GGUFReader  # deferred: slow to import

    try:
        reader = GGUFReader(path)
    except Exception as error:  # a damaged file ends in whatever its next bytes happen to mean
        raise ValueError(
            f"got a damaged {path} of {path.stat().st_size} bytes ({error}), expected a GGUF "
            "model: download it again"
        ) from error
    architecture = _value(reader, "general.architecture").tobytes().decode()
    # transformers reads no GGUF file of the first Gemma.
    supported = [name.removesuffix("_text") for name in SUPPORTED if name != "gemma"]
    for wrong, got, remedy in (
        (_value(reader, "general.type").tobytes() == b"adapter", "an adapter",
         "import it with `store import --format gguf`"),
        (any(_value(reader, "split.count") > 1), "a part of a model",
         "join the parts with `llama-gguf-split --merge`"),
        (architecture not in supported, f"architecture {architecture!r}", "take one of those"),
        (any(_value(reader, f"{architecture}.expert_count")), "a mixture of experts",
         "take a dense model"),
        (_scales_positions(reader, architecture), "scaled positions, which would be lost",
         "take the model's release in safetensors"),
    ):  # fmt: skip
        if wrong:
            raise ValueError(
                f"got {got} ({path}), expected a whole GGUF model of architecture "
                f"{', '.join(supported)}: {remedy}"
            )


def _scales_positions(reader: GGUFReader, architecture: str) -> bool:
    """Tell whether a file scales rotary positions, which transformers leaves out.

    Llama 3.1 to 3.3 do by a tensor; by settings Gemma 3 of 4B and more, and YaRN. Settings are read
    as llama.cpp does: a factor without a type is a linear one.
    """
    if any(t.name == "rope_freqs.weight" and (t.data != 1).any() for t in reader.tensors):
        return True
    kind, new, old = (
        _value(reader, f"{architecture}.rope.{key}")
        for key in ("scaling.type", "scaling.factor", "scale_linear")
    )
    factor = next((part[0] for part in (new, old) if len(part)), 1)
    name = kind.tobytes() or b"linear"
    return name != b"none" and (name != b"linear" or factor not in (0, 1))


def _value(reader: GGUFReader, key: str) -> np.ndarray:
    """Return a setting: a number alone in an array, a string's bytes, or nothing."""
    field = reader.fields.get(key)
    return np.empty(0) if field is None else field.parts[field.data[0]]


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
    """Dequantise a GGUF file into a transformers folder, written in `scratch`, then renamed.

    Raises:
        ValueError: weights that are missing, or of a type that cannot be read.
    """
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, output_loading_info=True
        )
    except NotImplementedError as error:  # of gguf
        raise ValueError(
            f"got a tensor type in {path} that cannot be read ({error}), expected a common one: "
            "take another quantisation of the model, or F16"
        ) from error
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
    ends = [tokenizer.eos_token_id, *_turn_end(path, tokenizer)]
    if len(set(ends)) > 1:  # GGUF has no list of them
        model.generation_config.eos_token_id = ends
    del loaded  # or its float32 tensors would stay beside those in bfloat16
    folder = scratch / "folder"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes for its user alone, but a cache may be shared.
    for file in folder.iterdir():
        file.chmod((folder / "config.json").stat().st_mode)
    os.rename(folder, target)


def _turn_end(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the id that ends a turn of a chat; none where the file tells of none."""
    from gguf import GGUFReader  # deferred: slow to import

    if len(stated := _value(GGUFReader(path), "tokenizer.ggml.eot_token_id")):
        return [int(stated[0])]
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": MARK}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template is a program, which fails in ways of its own
        return []
    behind = text.rpartition(MARK)[2].strip()
    ids = tokenizer(behind, add_special_tokens=False).input_ids[:1]
    return [token for token in ids if token in tokenizer.added_tokens_decoder]
