"""Merged folders: PEFT answers from each as from our merge, and those of the longest ago leave."""

from __future__ import annotations

import copy
import json
import threading
import time
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge
from prag_core.adapters.ridge_memory import RidgeMemory
from prag_core.adapters.store import UnknownKeyError
from prag_core.formats import merged_folders
from prag_core.formats.merged_folders import MergedFolders
from prag_core.formats.view import fit_rank
from prag_core.model.attach import attached
from tests.fixtures.tiny import random_adapter

TOKENS = torch.arange(5, 25)[None]
MANY = 1 << 30


@pytest.fixture
def filled(store, tiny_base, tiny_spec):
    for seed, key in enumerate("abc"):
        store.put(key, random_adapter(tiny_spec, tiny_base, seed))
    return store


@pytest.fixture
def forgotten():
    return []


@pytest.fixture
def folders():
    """Makes merged folders, which live as long as the test."""
    alive = []

    def make(store, forgotten=None, most_bytes=MANY, max_rank=8, cut=False, **options):
        def forget(name: str) -> bool:
            forgotten.append(name)
            return True

        alive.append(MergedFolders(store, most_bytes, max_rank, cut, forget, **options))
        return alive[-1]

    return make


@pytest.mark.parametrize(("name", "keys", "weights"), [
    ("prag:a", "a", [1]), ("prag:a+b", "ab", [1, 1]), ("prag:c+a@1,0.5", "ca", [1, 0.5]),
])  # fmt: skip
def test_peft_answers_as_we_from_the_merge(folders, filled, tiny_base, name, keys, weights):
    made = folders(filled)
    folder = made.path(name, "org/tiny")
    assert folder == made.path(name, "org/tiny")  # made once
    files = {file.name for file in folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "prag_adapter.json"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/tiny" and config["r"] == 2 * len(keys)
    model = PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), str(folder))
    expected = merge([filled.get(key) for key in keys], weights)
    with torch.no_grad():
        logits = model(TOKENS).logits
        with attached(tiny_base, [expected]):
            torch.testing.assert_close(logits, tiny_base.model(TOKENS).logits, atol=1e-5, rtol=0)


def test_ridge_memories_are_solved_together_and_left_out(folders, store, tiny_base, tiny_spec):
    spec = replace(tiny_spec, modules=("down_proj",), rank=4, alpha=4)
    for seed in (1, 2):
        plain = random_adapter(spec, tiny_base, seed)
        keys = torch.stack([a for a, _ in plain.tensors.values()])  # (L, R, I)
        memory = RidgeMemory.from_keys(keys, torch.ones(2, 64), torch.tensor([0.1, 0.1]))
        tensors = {
            path: (memory.solve(keys[module], module), b)
            for module, (path, (_, b)) in enumerate(plain.tensors.items())
        }
        store.put(f"d{seed}", replace(plain, tensors=tensors, memory=memory))
    folder = folders(store).path("prag:d1+d2", "tiny")
    assert not (folder / "memory.safetensors").exists()
    model = PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), str(folder))
    adapters = [store.get("d1"), store.get("d2")]
    with torch.no_grad():
        logits = model(TOKENS).logits
        for method, same in (("auto", True), ("concatenate", False)):
            with attached(tiny_base, [merge(adapters, method=method)]):
                difference = (logits - tiny_base.model(TOKENS).logits).abs().max()
            assert (difference < 1e-5) == same


def test_a_single_adapters_weights_are_linked(folders, filled):
    folder = folders(filled).path("prag:a", "tiny")
    assert (folder / "adapter_model.safetensors").samefile(filled.weights_path("a"))


def test_a_rank_above_the_engines_is_refused_by_name_or_cut(folders, filled):
    with pytest.raises(ValueError, match=r"'prag:a\+b\+c' of rank 6 .*expected at most 4"):
        folders(filled, max_rank=4).path("prag:a+b+c", "tiny")
    folder = folders(filled, max_rank=4, cut=True).path("prag:a+b+c", "tiny")
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4


def test_no_module_keeps_more_than_fits(tiny_base, tiny_spec):
    spec = replace(tiny_spec, modules=("down_proj",), rank=24, alpha=24)
    adapter = random_adapter(spec, tiny_base)
    keys = torch.stack([a for a, _ in adapter.tensors.values()])  # (L, R, I)
    keys[0] *= 9  # its module answers more, and would keep more
    memory = RidgeMemory.from_keys(keys, torch.ones(2, 64), torch.tensor([0.1, 0.1]))
    adapter = replace(adapter, memory=memory)
    assert reduce_rank(adapter, 8).rank > 8
    ranks = [len(a) for a, _ in fit_rank(adapter, 8).tensors.values()]
    assert max(ranks) <= 8 and min(ranks) >= 1
    assert fit_rank(adapter, 24) is adapter


def test_unknown_keys_and_no_names_are_refused(folders, filled):
    with pytest.raises(UnknownKeyError, match="'x', which no entry has"):
        folders(filled).path("prag:a+x", "tiny")
    with pytest.raises(ValueError, match="expected KEY"):
        folders(filled).path("prag:a+", "tiny")


def test_above_the_limit_the_oldest_leave_once_the_engine_forgot_them(
    folders, filled, forgotten, monkeypatch
):
    one = folders(filled).path("prag:a@0.5", "tiny")
    size = sum(file.stat().st_size for file in one.iterdir())
    made = folders(filled, forgotten, most_bytes=2 * size + 99)
    first, second = (made.path(f"prag:{key}@0.5", "tiny") for key in "ab")
    made.path("prag:a@0.5", "tiny")  # now b is the oldest
    assert forgotten == []
    third = made.path("prag:c@0.5", "tiny")
    assert forgotten == ["prag:b@0.5"] and second.exists()  # what is under way may still load it
    monkeypatch.setattr(merged_folders, "GRACE", -1.0)
    made.path("prag:c@0.5", "tiny")
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert made.path("prag:b@0.5", "tiny") == second and second.exists()  # asked for again
    assert forgotten == ["prag:b@0.5", "prag:a@0.5"]


def test_without_an_engine_that_forgets_nothing_leaves(filled, monkeypatch):
    monkeypatch.setattr(merged_folders, "GRACE", -1.0)
    made = MergedFolders(filled, 1, 8, False, lambda name: False)
    paths = [made.path(f"prag:{key}", "tiny") for key in "abc"]
    made.path("prag:c", "tiny")
    assert all(path.exists() for path in paths)


def test_one_that_the_engine_does_not_forget_keeps_no_other(filled, monkeypatch, caplog):
    made = MergedFolders(filled, 1, 8, False, lambda name: name != "prag:a")
    first, second, third = (made.path(f"prag:{key}", "tiny") for key in "abc")
    assert len(caplog.messages) == 2  # one a call that leaves too much
    monkeypatch.setattr(merged_folders, "GRACE", -1.0)
    made.path("prag:c", "tiny")
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def test_an_engine_that_forgets_nothing_is_not_asked_about_all(filled, monkeypatch):
    asked = []
    made = MergedFolders(filled, MANY, 8, False, lambda name: bool(asked.append(name)))
    for weight in (0.25, 0.5, 0.75, 1.25, 1.5):
        made.path(f"prag:a@{weight}", "tiny")
    made.most_bytes = 1
    made.path("prag:b", "tiny")
    assert len(asked) == merged_folders.REFUSALS


def test_an_engine_that_does_not_answer_is_waited_for_once(filled, monkeypatch):
    asked = []

    def forget(name: str) -> bool:
        asked.append(name)
        time.sleep(0.1)
        return False

    made = MergedFolders(filled, MANY, 8, False, forget)
    for key in "abc":
        made.path(f"prag:{key}", "tiny")
    made.most_bytes = 1
    monkeypatch.setattr(merged_folders, "PATIENCE", 0.05)
    made.path("prag:c", "tiny")
    assert asked == ["prag:a"]


def test_names_that_are_asked_for_are_forgotten_without_asking(
    folders, filled, forgotten, tiny_base, tiny_spec, monkeypatch
):
    made = folders(filled, forgotten, most_bytes=1)
    older = made.path("prag:a", "tiny")
    filled.put("a", random_adapter(tiny_spec, tiny_base, seed=9))
    newer = made.path("prag:a", "tiny")
    other = threading.Thread(target=made.path, args=("prag:a", "tiny"))
    write = made._write

    def slow(*arguments):
        other.start()  # another request, which waits for this one to be done
        while "prag:a" not in made._resolving:
            time.sleep(0.01)
        return write(*arguments)

    monkeypatch.setattr(made, "_write", slow)
    made.path("prag:b", "tiny")
    other.join()
    monkeypatch.setattr(merged_folders, "GRACE", -1.0)
    made.path("prag:a", "tiny")
    assert newer.exists() and not older.exists() and "prag:a" not in forgotten


def test_a_document_made_again_has_another_folder(filled, tiny_base, tiny_spec, tmp_path):
    made = MergedFolders(filled, MANY, 8, False, lambda name: True, tmp_path)
    before = made.path("prag:a+b", "tiny")
    filled.put("a", random_adapter(tiny_spec, tiny_base, seed=9))
    assert made.path("prag:a+b", "tiny") != before
    assert before.is_relative_to(tmp_path)
    del made
    assert not before.exists()  # nothing stays behind
