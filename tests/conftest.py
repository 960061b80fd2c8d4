"""Fixtures: a tiny random Llama with a byte tokenizer, adapters whose B is never zero, a store."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from prag_core.adapter import DTYPES, Adapter, AdapterSpec
from prag_core.adapter_store import AdapterStore
from prag_core.models import SUPPORTED, BaseModel, freeze

torch.set_num_threads(1)  # waiting for a second thread takes longer than these small products
os.environ["OMP_NUM_THREADS"] = "1"  # the same for processes that a test starts

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with one token a byte, and <pad>, <s>, <e>, <u>, <a> beside them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "<e>", "<u>", "<a>"]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<e>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(seed: int = 0) -> BaseModel:
    """Two-layer random Llama in float32: H=32, I=64."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,  # large enough that greedy text depends on the prompt
    )
    torch.manual_seed(seed)
    return freeze("tiny", LlamaForCausalLM(config), tokenizer)


def family_model(family: str, seed: int = 0) -> BaseModel:
    """Two-layer random model in float32 of one of the supported families: H=32, I=64."""
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    return freeze(family, AutoModelForCausalLM.from_config(config), tokenizer)


def random_adapter(spec: AdapterSpec, base: BaseModel, seed: int = 0, rank: int | None = None):
    """Adapter with random A and B (never zero) for the given spec."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path in spec.paths():
        inputs, outputs = base.module_shape(path.rsplit(".", 1)[1])
        r = rank or spec.rank
        a = torch.randn(r, inputs, generator=generator) * 0.1
        b = torch.randn(outputs, r, generator=generator) * 0.1
        tensors[path] = (a.to(DTYPES[spec.dtype]), b.to(DTYPES[spec.dtype]))
    return Adapter(spec, tensors, {"document_id": f"doc{seed}"})


@pytest.fixture(scope="session")
def tiny_base() -> BaseModel:
    """The tiny model; tests must not change its weights."""
    return tiny_model()


@pytest.fixture
def tiny_spec(tiny_base) -> AdapterSpec:
    """Rank 2, alpha 32, all FFN modules and layers of the tiny model."""
    return AdapterSpec(tiny_base.fingerprint, rank=2, alpha=32, layers=(0, 1))


@pytest.fixture(scope="session", params=SUPPORTED)
def family_base(request) -> BaseModel:
    """One tiny model of each supported family; tests must not change its weights."""
    return family_model(request.param)


@pytest.fixture
def adapter(tiny_base, tiny_spec):
    """Random, of rank 2."""
    return random_adapter(tiny_spec, tiny_base)


@pytest.fixture
def store(tmp_path):
    """A new store."""
    with AdapterStore(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def adapters(tiny_base, tiny_spec):
    """Rank 2, none, rank 5, and down_proj of layer 1 only."""
    narrow = AdapterSpec(tiny_base.fingerprint, 3, 6, ("down_proj",), (1,))
    return [
        random_adapter(tiny_spec, tiny_base, seed=1),
        None,
        random_adapter(replace(tiny_spec, rank=5, alpha=10), tiny_base, seed=2),
        random_adapter(narrow, tiny_base, seed=3),
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The benchmark's tiny model and hypernetwork, as folders."""
    from benchmark_fixtures import save_models  # imports this module

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def settings(model, tmp_path):
    """A whole benchmark's settings."""
    from benchmark_fixtures import whole_benchmark

    return whole_benchmark(model, tmp_path)


@pytest.fixture
def counted(monkeypatch):
    """Models and sets loaded and questions asked by the benchmark so far."""
    from benchmark_fixtures import count_calls

    return count_calls(monkeypatch)
