"""Export: our files against PEFT's logits, round trips, and what foreign files are refused for."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from prag_core.adapters.adapter import AdapterSpec
from prag_core.formats.gguf_file import from_gguf, to_gguf
from prag_core.formats.peft_folder import from_peft, to_peft
from tests.fixtures.tiny import random_adapter

TOKENS = torch.arange(10, 30)[None]


@pytest.fixture
def uneven(tiny_base, tiny_spec):
    """An adapter whose modules have ranks 2 and 1, as after pruning, and a row that it shares."""
    adapter = random_adapter(replace(tiny_spec, rank=3, alpha=7.0), tiny_base, rank=2)
    path = "model.layers.1.mlp.up_proj"
    a, b = adapter.tensors[path]
    tensors = {**adapter.tensors, path: (a[:1], b[:, :1])}
    return replace(adapter, tensors=tensors, shared_rows=1)


def dense_deltas(adapter):
    """Return {module path: scale * B @ A} in float32."""
    scale = adapter.spec.scale
    return {p: scale * b.float() @ a.float() for p, (a, b) in adapter.tensors.items()}


def assert_same_deltas(one, other):
    mine, theirs = dense_deltas(one), dense_deltas(other)
    assert set(mine) == set(theirs)
    for path in mine:
        torch.testing.assert_close(mine[path], theirs[path], atol=1e-6, rtol=1e-5)


def logits_by_hand(base, adapter):
    """Logits with scale * B @ A added to copies of the weights."""
    model = copy.deepcopy(base.model)
    for path, delta in dense_deltas(adapter).items():
        model.get_submodule(path).weight.add_(delta)
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("name", ["adapter", "uneven"])
def test_peft_gives_the_logits_of_the_dense_update(request, tmp_path, tiny_base, name):
    adapter = request.getfixturevalue(name)
    to_peft(adapter, tmp_path / "lora", "org/tiny")
    model = PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), str(tmp_path / "lora"))
    with torch.no_grad():
        logits = model(TOKENS).logits
        plain = tiny_base.model(TOKENS).logits
    assert model.peft_config["default"].base_model_name_or_path == "org/tiny"
    torch.testing.assert_close(logits, logits_by_hand(tiny_base, adapter), atol=1e-5, rtol=0)
    assert (logits - plain).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_round_trip_is_exact(tmp_path, tiny_base, tiny_spec, dtype, form):
    adapter = random_adapter(replace(tiny_spec, dtype=dtype), tiny_base)
    if form == "peft":
        found = from_peft(to_peft(adapter, tmp_path / "lora", "org/tiny"), tiny_base)
    else:
        found = from_gguf(to_gguf(adapter, tmp_path / "lora.gguf", "llama"), tiny_base)
    assert found.spec == adapter.spec and found.metadata == adapter.metadata
    for path, pair in adapter.tensors.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, found.tensors[path], strict=True))


def test_round_trip_of_uneven_ranks(tmp_path, tiny_base, uneven):
    found = from_peft(to_peft(uneven, tmp_path / "lora", "org/tiny"), tiny_base)
    assert found.spec == uneven.spec and found.shared_rows == 1 and found.memory is None
    assert found.tensors["model.layers.1.mlp.up_proj"][0].shape == (1, 32)
    assert_same_deltas(found, uneven)
    found = from_gguf(to_gguf(uneven, tmp_path / "lora.gguf", "llama"), tiny_base)
    assert found.spec == uneven.spec and found.rank == 2
    assert_same_deltas(found, uneven)


def test_one_module_and_layer(tmp_path, tiny_base):
    spec = AdapterSpec(tiny_base.fingerprint, 4, 8, ("down_proj",), (1,))
    adapter = random_adapter(spec, tiny_base)
    to_peft(adapter, tmp_path / "lora", "org/tiny")
    model = PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), str(tmp_path / "lora"))
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 1
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, logits_by_hand(tiny_base, adapter), atol=1e-5, rtol=0)


def test_peft_files_are_stable_and_readable_by_all(tmp_path, uneven):
    folders = [to_peft(uneven, tmp_path / name, "org/tiny") for name in ("one", "two")]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors",
                     "memory.safetensors", "prag_adapter.json"]  # fmt: skip
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert (folders[0] / name).stat().st_mode & 0o777 == 0o644
    assert folders[0].stat().st_mode & 0o777 == 0o755
    config = json.loads((folders[0] / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert config["layers_to_transform"] == [0, 1] and config["inference_mode"] is True
    assert config["r"] == 2 and config["lora_alpha"] == pytest.approx(14 / 3)
    assert config["rank_pattern"] == {"model.layers.1.mlp.up_proj": 1}
    tensors = load_file(folders[0] / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in tensors
    assert len(tensors) == 12 and {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_a_folder_with_content_is_not_overwritten(tmp_path, adapter):
    to_peft(adapter, tmp_path / "lora", "org/tiny")
    with pytest.raises(ValueError, match="has content, expected a new or empty folder: remove"):
        to_peft(adapter, tmp_path / "lora", "org/tiny")


@pytest.mark.parametrize("settings", [
    {"target_modules": r".*\.1\.mlp\.(up|down)_proj", "r": 4, "lora_alpha": 6},
    {"target_modules": ["gate_proj", "up_proj"], "r": 4, "use_rslora": True},
    {"target_modules": ["gate_proj", "up_proj"], "r": 4, "lora_alpha": 4,
     "rank_pattern": {"layers.0.mlp.up_proj": 2, "gate_proj": 3},
     "alpha_pattern": {"layers.0.mlp.up_proj": 16}},
    {"target_modules": r".*(0\.mlp\.up_proj|1\.mlp\.down_proj)", "r": 2},
])  # fmt: skip
def test_import_of_what_peft_saved(tmp_path, tiny_base, settings):
    config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(tiny_base.model), config)
    model.save_pretrained(tmp_path)
    adapter = from_peft(tmp_path, tiny_base)
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
    torch.testing.assert_close(logits_by_hand(tiny_base, adapter), expected, atol=1e-5, rtol=1e-4)
    assert adapter.spec.base_model == tiny_base.fingerprint


@pytest.mark.parametrize(("settings", "error"), [
    ({"target_modules": ["q_proj", "up_proj"]}, r"self_attn\.q_proj.*, expected LoRA pairs on"),
    ({"target_modules": ["up_proj"], "use_dora": True}, "use_dora=True .*, expected plain LoRA"),
    ({"target_modules": ["up_proj"], "bias": "all"}, "bias='all' .*, expected plain LoRA"),
    ({"target_modules": ["up_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save=.*lm_head"),
    ({"target_modules": ["up_proj"], "init_lora_weights": "olora"}, "it changes the base model"),
])  # fmt: skip
def test_peft_adapters_that_are_refused(tmp_path, tiny_base, settings, error):
    get_peft_model(copy.deepcopy(tiny_base.model), LoraConfig(r=2, **settings)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=error):
        from_peft(tmp_path, tiny_base)


def test_foreign_and_damaged_peft_folders(tmp_path, tiny_base, adapter):
    with pytest.raises(FileNotFoundError, match=r"got no file .*adapter_config.json, expected"):
        from_peft(tmp_path / "nothing", tiny_base)
    folder = to_peft(adapter, tmp_path / "lora", "org/tiny")
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        from_peft(folder, tiny_base)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"got pickled weights .*safe_serialization=True"):
        from_peft(folder, tiny_base)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        from_peft(folder, tiny_base)
    weights.write_bytes(content)
    config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 16'))
    with pytest.raises(ValueError, match=r"changed since its export .*prag_adapter\.json"):
        from_peft(folder, tiny_base)
    config.write_text("{")
    with pytest.raises(ValueError, match="that is not JSON"):
        from_peft(folder, tiny_base)


def test_another_base_model_is_refused(tmp_path, tiny_base, adapter):
    other = replace(adapter, spec=replace(adapter.spec, base_model="f" * 16))
    folder = to_peft(other, tmp_path / "own", "org/tiny")
    with pytest.raises(ValueError, match="got an adapter of base model ffffffffffffffff, expected"):
        from_peft(folder, tiny_base)
    with pytest.raises(ValueError, match="got an adapter of base model ffffffffffffffff, expected"):
        from_gguf(to_gguf(other, tmp_path / "own.gguf", "llama"), tiny_base)
    (folder / "prag_adapter.json").unlink()  # now a foreign folder: only shapes can tell
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file({**tensors, name: torch.ones(2, 48)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"A \(2, 48\) .*another base model than tiny"):
        from_peft(folder, tiny_base)
    deep = {k.replace("layers.1", "layers.7"): v for k, v in tensors.items()}
    save_file(deep, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.7.*one of 2 layers"):
        from_peft(folder, tiny_base)


def test_gguf_names_and_header(tmp_path, adapter):
    paths = [to_gguf(adapter, tmp_path / name, "llama") for name in ("one.gguf", "two.gguf")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    reader = gguf.GGUFReader(paths[0])
    fields = {key: reader.fields[key] for key in reader.fields}
    text = {k: bytes(f.parts[f.data[0]]).decode() for k, f in fields.items() if f.types[:1] == [8]}
    assert (text["general.type"], text["adapter.type"]) == ("adapter", "lora")
    assert text["general.architecture"] == "llama"
    alpha = fields["adapter.lora.alpha"]
    assert alpha.parts[alpha.data[0]][0] == 32
    shapes = {tensor.name: tuple(tensor.shape) for tensor in reader.tensors}  # llama.cpp's order
    assert len(shapes) == 12
    assert shapes["blk.1.ffn_down.weight.lora_a"] == (64, 2)
    assert shapes["blk.1.ffn_down.weight.lora_b"] == (2, 32)
    assert {path.name for path in tmp_path.iterdir()} == {"one.gguf", "two.gguf"}


def write_gguf(path, tensors, kind="lora", architecture="llama", alpha=8.0):
    """Write a GGUF adapter as another program would."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (array, tensor_type) in tensors.items():
        raw = gguf.quantize(array, tensor_type)
        writer.add_tensor(name, raw, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tensor_type", ["F32", "F16", "BF16", "Q8_0"])
def test_foreign_gguf(tmp_path, tiny_base, tensor_type):
    kind = gguf.GGMLQuantizationType[tensor_type]
    random = np.random.default_rng(0)
    a = random.standard_normal((32, 32), dtype=np.float32)
    b = random.standard_normal((64, 32), dtype=np.float32)
    names = [f"blk.1.ffn_up.weight.lora_{letter}" for letter in "ab"]
    path = write_gguf(tmp_path / "x.gguf", {names[0]: (a, kind), names[1]: (b, kind)})
    adapter = from_gguf(path, tiny_base)
    assert adapter.spec.modules == ("up_proj",) and adapter.spec.layers == (1,)
    assert adapter.spec.scale == 8 / 32
    (delta,) = dense_deltas(adapter).values()
    assert np.abs(delta.numpy() - b @ a / 4).max() < 0.15


def test_foreign_and_damaged_gguf_files(tmp_path, tiny_base, adapter):
    ones, f32 = np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.F32
    with pytest.raises(FileNotFoundError, match="expected a GGUF LoRA file"):
        from_gguf(tmp_path / "nothing.gguf", tiny_base)
    (tmp_path / "text.gguf").write_text("not a model\n" * 50)
    with pytest.raises(ValueError, match=r"text\.gguf that is damaged or no GGUF file"):
        from_gguf(tmp_path / "text.gguf", tiny_base)
    content = to_gguf(adapter, tmp_path / "own.gguf", "llama").read_bytes()
    for size in (0, 10, 300, len(content) // 2, len(content) - 64):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf that is damaged or no GGUF file"):
            from_gguf(tmp_path / "cut.gguf", tiny_base)
    path = write_gguf(tmp_path / "q.gguf", {"blk.0.attn_q.weight.lora_a": (ones, f32)})
    with pytest.raises(ValueError, match=r"got tensor blk\.0\.attn_q.*expected LoRA pairs on gate"):
        from_gguf(path, tiny_base)
    path = write_gguf(tmp_path / "half.gguf", {"blk.0.ffn_up.weight.lora_a": (ones, f32)})
    with pytest.raises(ValueError, match="without A or B"):
        from_gguf(path, tiny_base)
    for change in ({"kind": "control"}, {"architecture": "qwen2"}):
        path = write_gguf(tmp_path / "other.gguf", {"x": (ones, f32)}, **change)
        with pytest.raises(ValueError, match=r"expected .*'adapter.type': 'lora'.* not a model"):
            from_gguf(path, tiny_base)
    path = write_gguf(tmp_path / "empty.gguf", {})
    with pytest.raises(ValueError, match="got no LoRA matrices in"):
        from_gguf(path, tiny_base)
    with pytest.raises(ValueError, match="got model type 'mamba', expected one of llama"):
        to_gguf(adapter, tmp_path / "x.gguf", model_type="mamba")


@pytest.mark.parametrize(("kind", "dtype"), [("F64", np.float64), ("I8", np.int8)])
def test_a_tensor_type_that_gguf_does_not_read_is_named(tmp_path, tiny_base, kind, dtype):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.1.ffn_up.weight.lora_a", np.ones((2, 32), dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=rf"lora_a of type {kind} in .*, expected one of F32"):
        from_gguf(tmp_path / "x.gguf", tiny_base)


def test_gguf_names_the_architecture_of_every_family(tmp_path, family_base):
    adapter = random_adapter(AdapterSpec(family_base.fingerprint, 2, 4, layers=(0, 1)), family_base)
    model_type = family_base.model.config.model_type
    path = to_gguf(adapter, tmp_path / "lora.gguf", model_type)
    field = gguf.GGUFReader(path).fields["general.architecture"]
    name = bytes(field.parts[field.data[0]]).decode()
    expected = {"mistral": "llama", "gemma3_text": "gemma3"}.get(model_type, model_type)
    assert name == expected and name in gguf.MODEL_ARCH_NAMES.values()
    assert_same_deltas(from_gguf(path, family_base), adapter)
