"""Views: folders for serving engines, from folders and packs of a store."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from prag_core.formats.peft_folder import from_peft
from prag_core.formats.view import VLLM_RANKS, view_store
from prag_core.model.attach import attached
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter

TOKENS = torch.arange(5, 25)[None]


@pytest.fixture
def filled(store, tiny_base, tiny_spec):
    """A store with one adapter in a folder and one in a pack."""
    store.put("one", random_adapter(tiny_spec, tiny_base, seed=1))
    store.put_many({"two": random_adapter(tiny_spec, tiny_base, seed=2)}, pack=True)
    return store


def test_peft_reads_every_folder_of_a_view(filled, tiny_base, tmp_path):
    assert view_store(filled, tmp_path / "view", "org/tiny") == (2, [])
    for key in ("one", "two"):
        folder = tmp_path / "view" / key
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "org/tiny" and config["r"] == 2
        model = PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), str(folder))
        with torch.no_grad():
            logits = model(TOKENS).logits
            with attached(tiny_base, [filled.get(key)]):
                expected = tiny_base.model(TOKENS).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        assert_same(from_peft(folder, tiny_base), filled.get(key))


def test_weights_are_linked_and_outlive_the_store_entry(filled, tmp_path):
    view_store(filled, tmp_path / "view", "org/tiny", prefix="one")
    weights = tmp_path / "view" / "one" / "adapter_model.safetensors"
    assert weights.samefile(filled.weights_path("one"))
    assert [path.name for path in (tmp_path / "view").iterdir()] == ["one"]
    filled.delete("one")
    filled.sweep(grace=0)
    assert weights.stat().st_nlink == 1


@pytest.mark.parametrize("key", ["../runs", "..", "a/b", "a/"])
def test_a_key_that_is_no_folders_name_is_refused_and_nothing_else_touched(
    store, adapter, tmp_path, key
):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").touch()
    store.put_many({"+": adapter, key: adapter})  # the former comes first
    with pytest.raises(ValueError, match=f"got key '{key}', expected one that is the name of a"):
        view_store(store, tmp_path / "view", "org/tiny")
    assert (tmp_path / "runs" / "file").exists()
    assert not any((tmp_path / "view").glob("*"))


def test_what_comes_into_the_target_meanwhile_stays(filled, tmp_path, monkeypatch):
    def get(key):
        (tmp_path / "view" / key).mkdir(parents=True)
        (tmp_path / "view" / key / "file").touch()
        return whole(key)

    whole = filled.get
    monkeypatch.setattr(filled, "get", get)
    with pytest.raises(ValueError, match="has content, expected a new or empty folder"):
        view_store(filled, tmp_path / "view", "org/tiny")
    assert (tmp_path / "view" / "one" / "file").exists()


def test_a_view_of_nothing_is_refused(filled, tmp_path):
    with pytest.raises(ValueError, match=r"got no key that begins with 'three' .*prag store list"):
        view_store(filled, tmp_path / "view", "org/tiny", prefix="three")
    assert not (tmp_path / "view").exists()


def test_a_rank_above_the_engines_limit_and_a_full_target_are_refused(filled, tmp_path):
    with pytest.raises(ValueError, match=r"of rank 2 .*, expected at most 1: start vLLM with"):
        view_store(filled, tmp_path / "view", "org/tiny", max_rank=1)
    assert not any((tmp_path / "view").glob("*"))  # the next try meets an empty folder
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="has content, expected a new or empty folder"):
        view_store(filled, tmp_path / "full", "org/tiny")


def test_a_rank_that_no_vllm_takes_is_refused_by_name_or_cut(store, tiny_base, tiny_spec, tmp_path):
    store.put("long", random_adapter(replace(tiny_spec, rank=584), tiny_base))
    message = r"'long' of rank 584 \(at model\..*\), expected at most 512: cut it with --rank 256"
    with pytest.raises(ValueError, match=message):
        view_store(store, tmp_path / "view", "org/tiny")
    assert view_store(store, tmp_path / "cut", "org/tiny", rank=16) == (1, [])
    config = json.loads((tmp_path / "cut" / "long" / "adapter_config.json").read_text())
    assert config["r"] == 16
    assert VLLM_RANKS[-1] == 512
