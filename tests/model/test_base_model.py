"""Base models: every family loads, GGUF files are converted once, errors name the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from peft import PeftConfig
from transformers import AutoConfig

from prag_core.adapters.adapter import FFN_MODULES, AdapterSpec
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import to_peft
from prag_core.model import gguf_weights
from prag_core.model.base_model import (
    BaseModel,
    ffn_linears,
    freeze,
    load_base_model,
    model_fingerprint,
    transformers_name,
)
from prag_core.model.decoding_rows import end_tokens
from prag_core.model.generate import generate
from prag_core.model.hardware import computes_bfloat16
from prag_core.model.options import GenerationOptions
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.tiny import byte_tokenizer, random_adapter, tiny_model
from tests.fixtures.tiny_gguf import gguf_base, write_gguf

# A chat template that writes something behind every turn.
TEMPLATE = "{{% for m in messages %}}{{{{ m['content'] }}}}{end}\n{{% endfor %}}"


def save(base: BaseModel, folder: Path) -> str:
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_pinned_model_is_named_as_peft_loads_it(tiny_base, adapter, tmp_path):
    (path := tmp_path / "x@y").mkdir()
    for name, *expected in (("org/tiny@v1", "org/tiny", "v1"), (str(path), str(path), None)):
        folder = to_peft(adapter, tmp_path / f"{expected[1]}", transformers_name(name))
        config = PeftConfig.from_pretrained(folder)
        assert [config.base_model_name_or_path, config.revision] == expected


def test_every_family_loads_trains_attaches_and_generates(family_base, tmp_path):
    base = load_base_model(save(family_base, tmp_path), dtype="float32", device="cpu")
    assert base.fingerprint == family_base.fingerprint
    assert (base.dtype, base.device.type, base.num_layers) == (torch.float32, "cpu", 2)
    assert base.context_length == 512
    for path, linear in ffn_linears(base.model).items():
        module = path.rsplit(".", 1)[1]
        assert base.module_shape(module) == (linear.in_features, linear.out_features)
    document = Document("Mira Voss was born in Tarn.", "Mira Voss")
    augmented = AugmentedDocument(document, (), (QAPair("Where was she born?", "Tarn"),))
    options = LoraTrainingOptions(learning_rate=1e-2, max_steps=16, distillation=0, dtype="float32")
    augmenter = SimpleNamespace(fingerprint="none")
    first = LoraTrainer(base, augmenter, replace(options, max_steps=1)).train([augmented])[0][1]
    adapter, last = LoraTrainer(base, augmenter, options).train([augmented])[0]
    assert last < 0.9 * first
    prompts, decoding = ["Where was she born?"], GenerationOptions(max_new_tokens=8, stop=())
    assert generate(base, prompts, adapter, decoding) != generate(base, prompts, None, decoding)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": False}, torch.float32),
        ({}, torch.bfloat16),  # torch cannot tell
    ],
)
def test_bfloat16_is_the_default_where_the_cpu_has_it(monkeypatch, tmp_path, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    base = tiny_model()
    loaded = load_base_model(save(base, tmp_path), device="cpu")
    assert loaded.dtype == expected
    assert loaded.fingerprint == base.fingerprint
    assert computes_bfloat16("cuda")


@pytest.mark.parametrize("name", FFN_MODULES)
def test_fingerprint_differs_when_one_weight_tensor_changes(name):
    base = tiny_model()
    with torch.no_grad():
        base.model.get_submodule(f"model.layers.1.mlp.{name}").weight.mul_(1.1)
    assert model_fingerprint(base.model) != base.fingerprint


def test_fingerprint_covers_the_architecture():
    base = tiny_model()
    base.model.config.rms_norm_eps = 1e-3
    assert model_fingerprint(base.model) != base.fingerprint


@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_architecture_without_gate_up_down_is_refused(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"got architecture '{family}'.*llama, qwen2.*gemma3_text"):
        load_base_model(str(tmp_path))


@pytest.mark.parametrize("content", ['{"model_type": "not_known_yet"}', "{}"])
def test_unknown_architecture_is_refused_with_the_list(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"got architecture .*one of llama, qwen2"):
        load_base_model(str(tmp_path))


def test_missing_folder_and_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no base model at '/no/such/folder'.*smollm2"):
        load_base_model("/no/such/folder")
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got no base model at .*model\.safetensors"):
        load_base_model(str(tmp_path))


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="got dtype 'int8', expected one of auto, float32"):
        load_base_model("any", dtype="int8")


def test_a_folder_without_tokenizer_is_refused(family_base, tmp_path):
    family_base.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no tokenizer in .*beside the weights: save it there"):
        load_base_model(str(tmp_path), device="cpu")


def test_tokenizer_needs_an_end_token():
    base, tokenizer = tiny_model(), byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="got a tokenizer without end-of-sequence token"):
        freeze("tiny", base.model, tokenizer)


def test_freeze_pads_on_the_left_even_without_pad_token():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    base = freeze("tiny", tiny_model().model, tokenizer)
    assert base.tokenizer.pad_token == "<e>"
    assert base.tokenizer.padding_side == "left"
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training


def test_layer_out_of_range(tiny_base):
    with pytest.raises(ValueError, match=r"got layers \[2\], expected indices from 0 to 1"):
        ffn_linears(tiny_base.model, layers=[0, 2])
    spec = AdapterSpec(tiny_base.fingerprint, 2, 2, layers=(0, 7))
    with pytest.raises(ValueError, match=r"got layers \[7\]"):
        generate(tiny_base, ["a"], random_adapter(spec, tiny_base))


def test_gguf_file_loads_and_is_converted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    base = gguf_base()
    path = write_gguf(base, tmp_path / "tiny.gguf")
    loaded = load_base_model(str(path), dtype="float32", device="cpu")
    for name, weight in base.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight.bfloat16().float()), name
    assert loaded.tokenizer("abc é").input_ids[-6:] == base.tokenizer("abc é").input_ids
    monkeypatch.setattr(gguf_weights, "convert_gguf", None)  # a second conversion would fail
    assert load_base_model(str(path), device="cpu").fingerprint == loaded.fingerprint
    names = sorted(entry.name for entry in (tmp_path / "cache").iterdir())
    assert [name[:6] for name in names] == [".tiny-", names[1][:6]]  # its lock, its folder
    monkeypatch.setattr(gguf_weights, "VERSION", 0)
    with pytest.raises(TypeError):  # it is converted anew
        load_base_model(str(path), device="cpu")


SCALES, ONES = (np.array([1, number, 1, 1], np.float32) for number in (8, 1))


@pytest.mark.parametrize(
    ("add", "scaled"),
    [
        (lambda w: w.add_tensor("rope_freqs.weight", SCALES), True),
        (lambda w: w.add_tensor("rope_freqs.weight", ONES), False),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), True),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.NONE), False),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), False),
        (lambda w: w.add_rope_scaling_factor(8.0), True),
        (lambda w: w.add_rope_scaling_factor(1.0), False),
        (lambda w: w.add_float32("llama.rope.scale_linear", 4.0), True),
    ],
)
def test_gguf_files_with_scaled_positions_are_refused(tmp_path, monkeypatch, add, scaled):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    path = write_gguf(gguf_base(), tmp_path / "tiny.gguf", add)
    if not scaled:
        assert load_base_model(str(path), device="cpu").fingerprint == gguf_base().fingerprint
        return
    with pytest.raises(ValueError, match=r"got scaled positions, .*: take the .*safetensors"):
        load_base_model(str(path), device="cpu")


@pytest.mark.parametrize(
    ("add", "ends"),
    [
        (lambda w: w.add_eot_token_id(4), {2, 4}),
        (lambda w: w.add_chat_template(TEMPLATE.format(end="<u>")), {2, 3}),
        (lambda w: w.add_chat_template(TEMPLATE.format(end="<e>")), {2}),
        (lambda w: w.add_chat_template(TEMPLATE.format(end="")), {2}),
        (lambda w: w.add_chat_template("{{ raise_exception('no') }}"), {2}),
    ],
)
def test_a_chat_model_of_a_gguf_file_ends_at_the_end_of_its_turn(tmp_path, monkeypatch, add, ends):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    path = write_gguf(gguf_base(), tmp_path / "tiny.gguf", add)
    loaded = load_base_model(str(path), device="cpu")
    assert end_tokens(loaded) == ends | {1}  # 1 begins a text


def test_a_gguf_file_of_a_tensor_type_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    path = write_gguf(gguf_base(), tmp_path / "tiny.gguf", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"got a tensor type in .*F64.*take another quantisation"):
        load_base_model(str(path), device="cpu")


def test_missing_gguf_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no file at .*none\.gguf, expected a GGUF"):
        load_base_model(str(tmp_path / "none.gguf"))
