"""Checkpoints: what is missing, damaged or not supported is refused by name, before it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BitsAndBytesConfig, Gemma3Config
from transformers import Gemma3ForConditionalGeneration as Gemma3

from prag_core.model.base_model import load_base_model, model_fingerprint
from tests.fixtures.tiny import family_model, tiny_model

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    """The tiny model, as transformers saves it."""
    return saved(tmp_path / "tiny")


def saved(folder: Path, **options) -> Path:
    base = tiny_model()
    base.model.save_pretrained(folder, **options)
    base.tokenizer.save_pretrained(folder)
    return folder


def set_config(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        load_base_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: {k: t for k, t in w.items() if k != UP}, rf"for 1 tensors .*: {UP} is missing"),
        (lambda w: w | {UP: w[UP][:9].clone()}, rf"{UP} has \(9, 32\) for \(64, 32\)"),
        (lambda w: {f"base.{k}": t for k, t in w.items()}, r"lm_head.* missing, but base\.lm_head"),
    ],
)
def test_weights_that_are_not_there_are_named_not_drawn_at_random(folder, change, match):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    refused(folder, ValueError, match)


def test_a_multimodal_model_is_refused_by_either_name(tmp_path, folder):
    text = family_model("gemma3_text").model.config.to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3(config).save_pretrained(tmp_path / "gemma")
    refused(tmp_path / "gemma", ValueError, "'gemma3' .*, a multimodal model .take a text-only")
    # As those have it who put the text model's settings into the folder.
    (tmp_path / "gemma" / "config.json").write_text(json.dumps(text))
    refused(
        tmp_path / "gemma", ValueError, r"is missing, but .*, which it does not have.*text-only"
    )


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mixtral", "a mixture of experts"),
        ("qwen3_moe", "a mixture of experts"),
        ("phi3", "gate_up_proj"),
        ("llava", "a multimodal model"),
    ],
)
def test_an_architecture_is_refused_with_what_is_different_about_it(family, reason, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    refused(tmp_path, ValueError, f"got architecture '{family}' .*{reason}.*one of llama, qwen2")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq .*: take the release that is not"),
        ({"quant_method": "awq", "bits": 4}, "quantised by awq .*GGUF"),
        ({"quant_method": "fp8"}, "quantised by fp8"),
        ({"quant_method": "compressed-tensors"}, "quantised by compressed-tensors"),
        ({"quant_method": "some_new_one"}, "quantised by some_new_one"),
        ({}, "quantised by an unnamed method"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "in 8 bit .*, expected 4 bit"),
    ],
)
def test_quantised_weights_are_refused_by_the_name_of_their_method(folder, settings, match):
    set_config(folder, quantization_config=settings)
    refused(folder, ValueError, match)


def test_four_bits_without_their_package(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    set_config(folder, quantization_config={"load_in_4bit": True})
    refused(folder, ValueError, "need a package that is not installed.*bitsandbytes")


def test_an_adapters_folder_is_no_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(tmp_path, ValueError, "got a PEFT adapter .*, expected a base model")


@pytest.mark.parametrize("size", [0, 130, 20_000])
def test_damaged_files_are_named_with_their_size(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(folder, ValueError, f"damaged file .*: {file.name} of {size} bytes.*download it again")


@pytest.mark.parametrize("size", [0, 130, 20_000])
def test_damaged_pickles(folder, size):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().model.state_dict(), folder / "pytorch_model.bin")
    assert load_base_model(str(folder), device="cpu").fingerprint == tiny_model().fingerprint
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:size])
    refused(folder, ValueError, "damaged file .*download it again")


def test_a_sharded_checkpoint_and_one_that_lacks_a_part(tmp_path):
    folder = saved(tmp_path / "parts", max_shard_size="40KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) == 4
    loaded = load_base_model(f"{folder}/", device="cpu")  # as a shell completes it
    assert loaded.fingerprint == tiny_model().fingerprint
    content = parts[1].read_bytes()
    parts[1].write_bytes(content[:-1])
    refused(folder, ValueError, f"damaged file .*: {parts[1].name} of {len(content) - 1} bytes")
    parts[1].unlink()
    refused(folder, FileNotFoundError, rf"got no file {parts[1].name} .*\(1 missing\)")


def test_half_precision(folder):
    loaded = load_base_model(str(folder), dtype="float16", device="cpu")
    assert loaded.dtype == torch.float16
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        expected = tiny_model().model(ids).logits
        assert (loaded.model(ids).logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_fingerprint_of_quantised_weights_covers_their_scales():
    base = tiny_model()
    linear = base.model.get_submodule("model.layers.1.mlp.up_proj")
    linear.register_buffer("scales", torch.ones(64))
    assert model_fingerprint(base.model) == base.fingerprint  # of plain weights no buffer counts
    base.model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    before = model_fingerprint(base.model)
    linear.scales[3] = 2
    assert model_fingerprint(base.model) != before != base.fingerprint
