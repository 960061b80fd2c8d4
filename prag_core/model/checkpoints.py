"""Checkpoints: a model's settings and what transformers read of its files go in; refusals come out.

A base model answers from the weights that its author saved, or not at all: what transformers would
replace by random numbers, or read in a way that nobody has tried with adapters, is refused by name.
"""

from __future__ import annotations

import errno
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prag_core.files import FAILURES
from prag_core.model.catalogue import CATALOGUE

SUPPORTED = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")
QUANTISATIONS = ("bitsandbytes",)  # its 4-bit layers are linear layers that hooks fit
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
INDEX = "model.safetensors.index.json"
# What is shipped for base models: networks, and warm-ups beside them. The folder belongs to the
# package of the networks; in the source tree it is a link.
SHIPPED = Path(__file__).resolve().parents[2] / "hypernet" / "checkpoints"


def local_place(name: str | Path) -> Path:
    """Return where a name's files lie: a shipped one goes before a local folder of the name."""
    return next((path for path in SHIPPED.glob("*") if path.name == str(name)), Path(name))


def require_supported(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError for an architecture or a quantisation that adapters cannot be put on.

    Args:
        name: of the model.
        config: its config.json.
    """
    architecture = config.get("model_type")
    if architecture not in SUPPORTED:
        if not config and (Path(name) / "adapter_config.json").is_file():
            raise ValueError(
                f"got a PEFT adapter ({name}), expected a base model: name the one that its "
                "adapter_config.json names, and import the adapter with `store import`"
            )
        raise ValueError(
            f"got architecture {architecture!r} ({name}){_why(config)}, expected one with gate, up "
            f"and down projections: one of {', '.join(SUPPORTED)}"
        )
    settings = config.get("quantization_config")
    if settings is None:
        return
    method = settings.get("quant_method") or _bitsandbytes(settings)
    if method not in QUANTISATIONS:
        raise ValueError(
            f"got weights quantised by {method or 'an unnamed method'} ({name}), expected plain "
            f"ones or those of {', '.join(QUANTISATIONS)}: take the release that is not quantised, "
            "a GGUF file of it (which is converted to bfloat16), or one in bitsandbytes' 4 bit"
        )
    if not settings.get("load_in_4bit"):
        raise ValueError(
            f"got weights quantised by bitsandbytes in 8 bit ({name}), expected 4 bit: take such "
            "a release, or the one that is not quantised"
        )


def require_weights(name: str, info: Mapping[str, Any]) -> None:
    """Raise ValueError where a weight of the model was not in its files.

    Args:
        name: of the model.
        info: `output_loading_info` of transformers.
    """
    wrong = {key: f"{tuple(s)} for {tuple(m)}" for key, s, m in sorted(info["mismatched_keys"])}
    if wrong:
        key, shapes = next(iter(wrong.items()))
        raise ValueError(
            f"got weights of another shape in {name}: {key} has {shapes} and {len(wrong) - 1} "
            "more, expected those of its config.json: take both from one release"
        )
    if missing := sorted(info["missing_keys"]):
        other = sorted(info["unexpected_keys"])[:1]
        beside = f", but {other[0]}, which it does not have" if other else ""
        raise ValueError(
            f"got no weights for {len(missing)} tensors of the model in {name}: {missing[0]} is "
            f"missing{beside}, expected all that its config.json describes: take a whole release "
            "(of a multimodal model, a text-only one)"
        )


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises for missing and damaged files and packages into ours.

    Raises:
        FileNotFoundError: no config, weight or tokenizer file.
        ValueError: a damaged file, or a package that the weights need and that is not there.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"got {name!r}, whose weights need a package that is not installed, expected it: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        if _is_damage(error):
            file = _damaged(Path(name)) or "its weights"
            raise ValueError(
                f"got a damaged file in {name}: {file} ({str(error).split(': ')[-1][:80]}), "
                "expected a whole one: download it again (with git-lfs, `git lfs pull`)"
            ) from error
        if not isinstance(error, OSError) or error.errno in FAILURES:  # a full disk, say
            raise
        if missing := _missing_parts(Path(name)):
            raise FileNotFoundError(
                f"got no file {missing[0]} in {name}, expected all parts that its {INDEX} names "
                f"({len(missing)} missing): download the model again"
            ) from error
        raise FileNotFoundError(
            f"got no base model at {name!r}, expected a hub name, a local folder with config, "
            f"weights and tokenizer, a .gguf file or one of {', '.join(CATALOGUE)}: check the "
            f"name ({str(error).splitlines()[0]})"
        ) from error


@contextmanager
def named_tokenizer_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises for missing and damaged tokenizer files into ours.

    Raises:
        ValueError: no tokenizer file, or a damaged one.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):  # see `named_errors`
        raise
    except Exception as error:  # json's, tokenizers' (which has none of its own), or any other kind
        reason = (str(error).strip() or repr(error)).splitlines()[0][:120]
        file = _damaged_json(Path(name)) or "its tokenizer files"
        raise ValueError(
            f"got no tokenizer in {name} that can be read: {file} ({reason}), expected a whole "
            "tokenizer.json beside the weights: save it there (tokenizer.save_pretrained), or "
            "download it again (with git-lfs, `git lfs pull`)"
        ) from error


def _is_damage(error: Exception) -> bool:
    """Tell whether an error is how safetensors or torch say that a file of weights is not whole."""
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # torch looks for the end of a shorter file
    return not isinstance(error, RuntimeError) or "PytorchStreamReader" in str(error)


def _why(config: Mapping[str, Any]) -> str:
    """Say what is different about an architecture, where its settings tell."""
    kind = str(config.get("model_type"))
    if "text_config" in config or "vision_config" in config:
        return ", a multimodal model (take a text-only release)"
    if any(config.get(name) for name in EXPERTS) or "moe" in kind:
        return ", a mixture of experts (an FFN a token, no single one to adapt)"
    if kind.startswith(("phi3", "phi4", "glm")):
        return ", which has gate and up projection in one matrix (gate_up_proj)"
    return ""


def _bitsandbytes(settings: Mapping[str, Any]) -> str:
    """Name the method of settings that are older than `quant_method`."""
    return "bitsandbytes" * bool(settings.get("load_in_4bit") or settings.get("load_in_8bit"))


def _damaged(folder: Path) -> str:
    """Name the file of weights of a local folder that is damaged, with its size; "" if unsure."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(path, "pt").__enter__()
        except SafetensorError:
            return _sized(path)
    # torch writes zip archives. Files of its older format are none, though they are whole.
    pickles = folder.glob("pytorch_model*.bin")
    suspects = [path for path in pickles if not zipfile.is_zipfile(path)]
    return _sized(suspects[0]) if len(suspects) == 1 else ""


def _damaged_json(folder: Path) -> str:
    """Name the first tokenizer file of a local folder that is not JSON, with its size."""
    for path in sorted(folder.glob("*token*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            return _sized(path)
    return ""


def _sized(path: Path) -> str:
    return f"{path.name} of {path.stat().st_size} bytes"


def _missing_parts(folder: Path) -> list[str]:
    """Return the weight files that a local folder's index names and that are not there."""
    with suppress(OSError, ValueError, LookupError, AttributeError):
        parts = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        return sorted(part for part in parts if not (folder / part).is_file())
    return []
