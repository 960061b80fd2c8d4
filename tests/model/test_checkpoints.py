"""Checkpoints: what is missing, damaged or not supported is refused by name, before it answers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, Gemma3Config
from transformers import Gemma3ForConditionalGeneration as Gemma3

from prag_core.adapters.adapter import AdapterSpec
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.model.attach import attached
from prag_core.model.base_model import load_base_model, model_fingerprint, share_weights
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.hypernetworks import DOCUMENTS, parametrizer
from tests.fixtures.tiny import family_model, random_adapter, tiny_model
from tests.fixtures.tiny_gguf import gguf_base, write_gguf

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


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_four_bits_without_their_package(folder):
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
    refused(folder, ValueError, f"damaged file .*: {file.name} of {size} bytes.*download it again")


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "tokenizer.json of 43"),
        ("tokenizer.json", b"", "tokenizer.json of 0 bytes"),
        ("tokenizer.json", b"{}", "its tokenizer files"),
        ("tokenizer_config.json", b'{"eos_token": "\xff', "tokenizer_config.json of 16"),
        ("tokenizer_config.json", b"[]", "its tokenizer files"),
    ],
)
def test_damaged_tokenizers_are_named(folder, name, content, named):
    (folder / name).write_bytes(content)
    refused(folder, ValueError, f"got no tokenizer in .* that can be read: {named}.*git lfs pull")


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
    assert loaded.dtype == torch.float16 == loaded.model.lm_head.weight.dtype
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        expected = tiny_model().model(ids).logits
        assert (loaded.model(ids).logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_values_too_small_for_float16_stay_in_the_fingerprint(folder, tmp_path):
    small = load_base_model(str(folder), dtype="float32", device="cpu")
    for parameter in small.model.parameters():
        parameter.mul_(1e-5)
    small.model.save_pretrained(tmp_path / "small")
    small.tokenizer.save_pretrained(tmp_path / "small")
    kinds = ("float32", "bfloat16", "float16")
    loaded = [load_base_model(str(tmp_path / "small"), dtype=kind, device="cpu") for kind in kinds]
    assert len({base.fingerprint for base in loaded}) == 1


def test_fingerprint_of_quantised_weights_covers_their_scales():
    base = tiny_model()
    linear = base.model.get_submodule("model.layers.1.mlp.up_proj")
    linear.register_buffer("scales", torch.ones(64))
    assert model_fingerprint(base.model) == base.fingerprint  # of plain weights no buffer counts
    base.model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    before = model_fingerprint(base.model)
    linear.scales[3] = 2
    assert model_fingerprint(base.model) != before != base.fingerprint


@pytest.fixture
def four_bits(folder, tmp_path):
    """The tiny model quantised by bitsandbytes, in float32 otherwise."""
    pytest.importorskip("bitsandbytes")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    options = {"quantization_config": settings, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    model.save_pretrained(tmp_path / "four")
    tiny_model().tokenizer.save_pretrained(tmp_path / "four")
    return load_base_model(str(tmp_path / "four"), dtype="float32", device="cpu")


def test_adapters_go_onto_four_bit_weights_and_come_off(four_bits, tmp_path):
    ids = torch.arange(10, 20)[None]
    made = parametrizer(four_bits, tmp_path / "network").parametrize(DOCUMENTS[:1])[0]
    spec = AdapterSpec(four_bits.fingerprint, 2, 32, layers=(0, 1))
    with torch.no_grad():
        before = four_bits.model(ids).logits
        for adapter in (random_adapter(spec, four_bits), made):
            with attached(four_bits, adapter):
                assert not torch.allclose(four_bits.model(ids).logits, before, atol=1e-2)
        assert torch.equal(four_bits.model(ids).logits, before)
        assert torch.equal(share_weights(four_bits).model(ids).logits, before)
    assert model_fingerprint(four_bits.model) == four_bits.fingerprint  # the weights never change
    other = load_base_model(four_bits.name, dtype="bfloat16", device="cpu")
    assert other.fingerprint == four_bits.fingerprint != tiny_model().fingerprint


def test_adapters_train_on_four_bit_weights(four_bits):
    document = Document("Mira Voss was born in Tarn.", "Mira Voss")
    augmented = AugmentedDocument(document, (), (QAPair("Where was she born?", "Tarn"),))
    losses = [
        LoraTrainer(
            four_bits,
            SimpleNamespace(fingerprint="none"),
            LoraTrainingOptions(learning_rate=1e-2, max_steps=n, dtype="float32"),
        ).train([augmented])[0][1]
        for n in (1, 8)
    ]
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize("size", [0, 10, 200, 60_000, -1])
def test_damaged_gguf_files(tmp_path, monkeypatch, size):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    path = write_gguf(gguf_base(), tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:size])
    count = path.stat().st_size
    refused(path, ValueError, rf"got a damaged .*tiny\.gguf of {count} bytes .*download it again")


@pytest.mark.parametrize(
    ("architecture", "add", "match"),
    [
        ("phi3", lambda w: None, "got architecture 'phi3' .*llama, qwen2.*gemma3"),
        ("gemma", lambda w: None, "got architecture 'gemma' .*mistral, gemma2"),
        ("clip", lambda w: None, "got architecture 'clip'"),
        ("llama", lambda w: w.add_type("adapter"), "got an adapter .*store import"),
        ("llama", lambda w: w.add_uint16("split.count", 3), "got a part of a model .*--merge"),
        ("llama", lambda w: w.add_expert_count(8), "got a mixture of experts"),
    ],
)
def test_gguf_files_that_are_no_dense_supported_model(
    tmp_path, monkeypatch, architecture, add, match
):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", architecture)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "other.gguf", ValueError, match)


def test_a_revision_of_a_hub_name(tmp_path, monkeypatch):
    # The hub's cache as it lies on disk, with two commits and a tag of the older one.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--org--tiny"
    (model / "refs").mkdir(parents=True)
    bases = [tiny_model(seed) for seed in (0, 1)]
    for number, (base, ref) in enumerate(zip(bases, ("v1", "main"), strict=True)):
        commit = str(number) * 40
        base.model.save_pretrained(model / "snapshots" / commit)
        base.tokenizer.save_pretrained(model / "snapshots" / commit)
        (model / "refs" / ref).write_text(commit)
    for name, base in (("", bases[1]), ("@v1", bases[0]), ("@" + "0" * 40, bases[0])):
        loaded = load_base_model("org/tiny" + name, device="cpu")
        assert loaded.fingerprint == base.fingerprint
        assert loaded.name == "org/tiny" + name
    refused("org/tiny@v9", FileNotFoundError, "got no base model at 'org/tiny@v9'")
