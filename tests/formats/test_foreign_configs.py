"""PEFT folders of other programs: every setting means what PEFT says, or is refused by its name."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prag_core.formats.peft_folder import from_peft, to_peft
from tests.fixtures.examples import examples

ABSENT = object()
UP = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.fixture
def folder(tmp_path, adapter):
    """A PEFT folder as another program writes it: rank 2, alpha 32."""
    to_peft(adapter, tmp_path / "lora", "org/tiny")
    (tmp_path / "lora" / "prag_adapter.json").unlink()
    return tmp_path / "lora"


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | changes
    config = {name: value for name, value in config.items() if value is not ABSENT}
    path.write_text(json.dumps(config))


def change_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize(("changes", "scale"), [
    ({"r": None}, 16),
    ({"r": ABSENT}, 16),
    ({"lora_alpha": ABSENT}, 4),  # PEFT's default is 8
    ({"lora_alpha": None, "alpha_pattern": {"mlp.*": 6}}, 3),
    ({"bias": None, "modules_to_save": [], "use_dora": None, "rank_pattern": None}, 16),
    ({"target_modules": "all-linear", "layers_to_transform": None}, 16),
    ({"target_modules": None, "layers_to_transform": None}, 16),
    ({"target_modules": r".*\.mlp\..*_proj", "exclude_modules": ["q_proj"]}, 16),
    ({"init_lora_weights": "gaussian", "some_later_setting": {"a": 1}}, 16),
])  # fmt: skip
def test_settings_that_mean_a_plain_lora(folder, tiny_base, changes, scale):
    change_config(folder, **changes)
    assert from_peft(folder, tiny_base).spec.scale == scale


@pytest.mark.parametrize(("changes", "error"), [
    ({"lora_alpha": None}, "lora_alpha null at .*, expected a number"),
    ({"lora_alpha": "16"}, 'lora_alpha "16"'),
    ({"lora_alpha": True}, "lora_alpha true"),
    ({"lora_alpha": float("nan")}, "lora_alpha NaN"),
    ({"alpha_pattern": {"up_proj": None}}, "lora_alpha null at .*up_proj"),
    ({"alpha_pattern": {"(": 3}}, "does not fit its weights"),
    ({"alpha_pattern": [1]}, "does not fit its weights"),
    ({"r": 4}, "r 4 at .*, expected 2, the rank of its tensors"),
    ({"rank_pattern": {"gate_proj": 1}}, "r 1 at .*gate_proj, expected 2"),
    ({"target_modules": ["up_proj"]}, r"unnamed tensors of .*proj \(of 4 such\)"),
    ({"layers_to_transform": [0]}, r"unnamed tensors of model\.layers\.1"),
    ({"exclude_modules": "(.*"}, "does not fit its weights"),
    ({"exclude_modules": ["up_proj"]}, "unnamed tensors of .*up_proj"),
    ({"use_dora": True}, "use_dora=True"),
    ({"lora_bias": True}, "lora_bias=True"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
    ({"bias": "lora_only"}, "bias='lora_only'"),
    ({"peft_type": None}, "peft_type=None"),
    ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
    ({"init_lora_weights": "pissa_niter_4"}, "changes the base model.*path_initial_model"),
    ({"init_lora_weights": "OLoRA"}, "'OLoRA' .it changes the base model"),
    ({"init_lora_weights": "MiCA"}, "'MiCA' .it changes the base model"),
])  # fmt: skip
def test_settings_that_are_refused_by_name(folder, tiny_base, changes, error):
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=error):
        from_peft(folder, tiny_base)


@pytest.mark.parametrize(("old", "new"), [
    ("lora_A.weight", "lora_A.default.weight"),
    ("base_model.model.", ""),
    ("base_model.model.model.", "module._orig_mod.base_model.model.model."),
    ("model.model.layers", "model.model.language_model.layers"),
])  # fmt: skip
def test_names_with_what_wraps_the_model(folder, tiny_base, adapter, old, new):
    change_tensors(folder, lambda ts: {name.replace(old, new): t for name, t in ts.items()})
    tensors = from_peft(folder, tiny_base).tensors
    assert all(tensors[path][0].equal(a) for path, (a, _) in adapter.tensors.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_tensors_of_smaller_types(folder, tiny_base, dtype):
    change_tensors(folder, lambda ts: {name: t.to(dtype) for name, t in ts.items()})
    adapter = from_peft(folder, tiny_base)
    kept = dtype if dtype.itemsize == 2 else torch.float32
    assert {t.dtype for pair in adapter.tensors.values() for t in pair} == {kept}


@pytest.mark.parametrize(("change", "error"), [
    (lambda ts: {n: t for n, t in ts.items() if "layers.1" not in n},
     r"no tensors of model\.layers\.1.* \(of 3 such\)"),
    (lambda ts: {n: t for n, t in ts.items() if n != UP}, "without A or B"),
    (lambda ts: ts | {UP.replace("mlp.up", "self_attn.q"): torch.ones(2, 32)},
     r"self_attn\.q_proj"),
    (lambda ts: ts | {UP.replace("A.weight", "magnitude_vector"): torch.ones(64)}, "magnitude"),
    (lambda ts: ts | {"base_model.model.lm_head.weight": torch.ones(4)}, "lm_head"),
    (lambda ts: ts | {UP.replace("A.w", "A.other.w"): torch.ones(2, 32)}, "one adapter a file"),
    (lambda ts: {n: t.to(torch.int8) for n, t in ts.items()}, "int8, expected finite"),
    (lambda ts: ts | {UP: ts[UP] / 0}, "not finite, expected finite"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(folder, tiny_base, change, error):
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=error):
        from_peft(folder, tiny_base)


def test_folder_of_named_adapters_and_a_note_without_spec(folder, tiny_base):
    with pytest.raises(FileNotFoundError, match=r"name the folder of one adapter, e\.g\. .*lora"):
        from_peft(folder.parent, tiny_base)
    (folder / "prag_adapter.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match="has no spec of this version"):
        from_peft(folder, tiny_base)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=5),
    st.lists(st.sampled_from(["up_proj", "q_proj", "", 0]), max_size=2),
    st.dictionaries(st.sampled_from(["up_proj", "(", ".*"]), st.none() | st.integers(), max_size=1),
)  # fmt: skip
FIELDS = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules",
          "exclude_modules", "layers_to_transform", "layers_pattern", "bias", "peft_type",
          "init_lora_weights", "modules_to_save", "fan_in_fan_out", "use_dora"]  # fmt: skip


def test_any_config_is_read_or_refused(folder, tiny_base):
    original = (folder / "adapter_config.json").read_text()

    @settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
    @given(st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=3))
    def check(changes):
        (folder / "adapter_config.json").write_text(original)
        change_config(folder, **changes)
        try:
            adapter = from_peft(folder, tiny_base)
        except ValueError as error:  # and no other
            assert str(error).startswith("got ") and "expected" in str(error) + "expected" * (
                "does not fit its weights" in str(error)
            )
        else:
            assert all(torch.isfinite(b).all() for _, b in adapter.tensors.values())

    check()
