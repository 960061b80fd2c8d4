"""`prag store`: adapters are listed, checked, moved out, deleted and moved in."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.chunking import chunk_document
from prag_core.corpus.documents import Document
from prag_core.formats.gguf_file import from_gguf
from prag_core.formats.merge_name import named_adapter
from prag_core.formats.peft_folder import from_peft
from prag_core.model.attach import attached
from prag_core.model.catalogue import CATALOGUE, EMBEDDED_NAME
from tests.fixtures.command_line import run
from tests.fixtures.tiny import byte_tokenizer, family_model, random_adapter, tiny_model


def test_adapters_leave_and_enter_a_store(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    as_in_peft = "--training.dtype=bfloat16"
    assert run("parametrize", corpus, "--store", store, *options, as_in_peft) == 0
    capsys.readouterr()
    assert run("store", "verify", "--path", store) == 0
    assert run("store", "list", "--path", store) == 0
    key = capsys.readouterr().out.splitlines()[1].split("\t")[0]
    assert run("store", "sweep", "--path", store) == 0
    target, model = tmp_path / "peft", options[0].split("=")[1]
    assert run("store", "export", "--path", store, "--key", key, "--to", target,
               "--base_model", model) == 0  # fmt: skip
    with AdapterStore(store) as opened:
        expected = opened.get(key)
    for path, (a, b) in from_peft(target, tiny_model()).tensors.items():
        assert a.equal(expected.tensors[path][0]) and b.equal(expected.tensors[path][1])
    assert run("store", "delete", "--path", store, "--key", key) == 0
    assert run("store", "import", "--path", store, "--key", key, "--source", target,
               "--base_model", model) == 0  # fmt: skip
    assert len(AdapterStore(store)) == 6


@pytest.fixture
def adapters(tmp_path, adapter):
    """A store with two adapters and a document that has none."""
    with AdapterStore(tmp_path / "store") as opened:
        opened.put_many({"one-x": adapter, "two-x": adapter})
        opened.put_record("document", "three", {"text": "Three."})
    return tmp_path / "store"


def test_store_verify_names_damaged_files_and_documents_without_adapter(adapters, capsys):
    assert run("store", "verify", "--path", adapters) == 0
    printed = capsys.readouterr().out
    assert "2 adapters, all sound" in printed and "document three has no adapter" in printed
    assert "prag store forget" in printed
    assert run("store", "forget", "--path", adapters, "--key", "thr") == 0
    assert "1 document forgotten" in capsys.readouterr().out
    assert run("store", "verify", "--path", adapters) == 0
    assert "has no adapter" not in capsys.readouterr().out
    (path, _) = adapters.rglob("adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert run("store", "verify", "--path", adapters) == 2
    printed = capsys.readouterr()
    assert str(path) in printed.out and "got 1 damaged entries" in printed.err


def test_store_sweep_reindex_and_view(adapters, tmp_path, capsys):
    assert run("store", "delete", "--path", adapters, "--key", "one") == 0
    assert run("store", "sweep", "--path", adapters, "--grace", 0) == 0
    assert "bytes freed" in capsys.readouterr().out
    (adapters / "index.sqlite").unlink()
    assert run("store", "list", "--path", adapters) == 2
    assert "prag store reindex" in capsys.readouterr().err
    assert run("store", "reindex", "--path", adapters) == 0
    printed = capsys.readouterr().out
    assert "1 adapters" in printed and "run `prag parametrize` with the same doc" in printed
    view = tmp_path / "view"
    assert run("store", "view", "--path", adapters, "--to", view) == 2
    assert "--engine_model" in capsys.readouterr().err
    assert run("store", "view", "--path", adapters, "--to", view, "--engine_model", "org/m") == 0
    config = json.loads((view / "two-x" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/m"


def test_a_readonly_mount_is_answered_from_and_looked_into(corpus, options, small_disk, tmp_path):
    store, key = small_disk / "store", ""
    assert run("parametrize", corpus, "--store", store, *options) == 0
    with AdapterStore(store) as opened:
        key = next(opened.keys())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run("answer", "Where is Bo?", "--store", store, *options) == 0
    for action in ("list", "verify"):
        assert run("store", action, "--path", store) == 0
    view, target = tmp_path / "view", tmp_path / "peft"
    assert run("store", "view", "--path", store, "--to", view, "--engine_model", "org/m") == 0
    assert run("store", "export", "--path", store, "--key", key, "--to", target,
               "--base_model", "org/m") == 0  # fmt: skip
    for action in ("sweep", "delete"):
        assert run("store", action, "--path", store, "--key", key) == 2


@pytest.mark.parametrize("action", ["list", "sweep", "reindex", "delete"])
def test_store_never_makes_a_store_to_look_into(tmp_path, capsys, action):
    assert run("store", action, "--path", tmp_path / "none") == 2
    assert "prag parametrize" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_gguf_export_of_a_qwen_base_and_of_the_wrong_one(adapters, tmp_path, capsys):
    base, model = family_model("qwen2"), tmp_path / "qwen"
    base.model.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    spec = AdapterSpec(base.fingerprint, 2, 4, layers=(0, 1))
    with AdapterStore(adapters) as opened:
        opened.put("qwen", random_adapter(spec, base))
    export = ("store", "export", "--path", adapters, "--format", "gguf", "--base_model", model)
    target = tmp_path / "lora.gguf"
    assert run(*export, "--key", "qwen", "--to", target) == 0
    assert from_gguf(target, base).spec == spec
    assert run(*export, "--key", "one", "--to", tmp_path / "other.gguf") == 2
    assert "load the base model it was made for" in capsys.readouterr().err
    assert not (tmp_path / "other.gguf").exists()


@pytest.mark.parametrize("key", ["one", "one+two-x@1,0.5"])
def test_peft_loads_an_export_with_its_base_model(adapters, tmp_path, tiny_base, key):
    with AdapterStore(adapters) as opened:
        opened.put("two-x", random_adapter(opened.get("one-x").spec, tiny_base, seed=5))
        expected = named_adapter(opened, key)
    model, target = tmp_path / "model", tmp_path / "lora"
    tiny_base.model.save_pretrained(model)
    export = ("store", "export", "--path", adapters, "--key", key, "--to", target)
    assert run(*export, "--base_model", model) == 0
    loaded = AutoPeftModelForCausalLM.from_pretrained(target)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        logits = loaded(ids).logits
        with attached(tiny_base, [expected]):
            torch.testing.assert_close(logits, tiny_base.model(ids).logits, atol=1e-5, rtol=0)


@pytest.fixture
def shipped(adapters, adapter):
    """The store with an adapter of the embedded model and one of another in the catalogue."""
    with AdapterStore(adapters) as opened:
        for name in CATALOGUE:
            spec = replace(adapter.spec, base_model=CATALOGUE[name].fingerprint)
            opened.put(name, replace(adapter, spec=spec))
    return adapters


def test_a_model_of_the_catalogue_is_exported_by_its_folder(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    adapters = shipped
    export = ("store", "export", "--path", adapters, "--key", EMBEDDED_NAME, "--to")
    assert run(*export, tmp_path / "a") == 0  # it is not there: the name stays, nothing is fetched
    (tmp_path / "smollm2-135m").mkdir()
    (tmp_path / "smollm2-135m" / "config.json").write_text("{}")
    assert run(*export, tmp_path / "b") == 0
    configs = [json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in "ab"]
    names = [config["base_model_name_or_path"] for config in configs]
    assert names == ["smollm2-135m", str(tmp_path / "smollm2-135m")]


@pytest.mark.parametrize("format", ["peft", "gguf"])
def test_an_export_names_the_model_that_the_adapter_was_made_for(
    shipped, tmp_path, capsys, monkeypatch, format
):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path))
    monkeypatch.setattr("prag_core.model.base_model.load_base_model", None)
    export = ("store", "export", "--path", shipped, "--to", tmp_path / "a", "--format", format)
    assert run(*export, "--key", "qwen", "--base_model", EMBEDDED_NAME) == 2
    assert "(1b99e1b7b17961eb): name it in --base_model" in capsys.readouterr().err
    assert run(*export, "--key", "one") == 2  # of a model that the catalogue does not have
    assert "expected its name: set --base_model" in capsys.readouterr().err
    if format == "peft":
        assert run(*export, "--key", "qwen") == 0
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "qwen2.5-coder-0.5b"


def test_peft_export_of_a_rank_above_vllms(tmp_path, tiny_base, tiny_spec, capsys):
    with AdapterStore(tmp_path / "store") as opened:
        opened.put("long", random_adapter(replace(tiny_spec, rank=584), tiny_base))
    export = ("store", "export", "--path", tmp_path / "store", "--key", "long",
              "--base_model", "org/m")  # fmt: skip
    assert run(*export, "--to", tmp_path / "a") == 2
    assert "rank 584" in (printed := capsys.readouterr().err) and "--rank 256" in printed
    assert "set --max_rank 584 where the program takes it (PEFT does)" in printed
    assert run(*export, "--to", tmp_path / "a", "--rank", 256) == 0
    assert run(*export, "--to", tmp_path / "b", "--max_rank", 1024) == 0


def test_export_of_parts(tmp_path, tiny_base, tiny_spec, capsys):
    whole = replace(random_adapter(tiny_spec, tiny_base, rank=5), shared_rows=2)
    with AdapterStore(tmp_path / "store") as opened:
        opened.put_many({"sharing": whole, "plain": random_adapter(tiny_spec, tiny_base)})
    export = ("store", "export", "--path", tmp_path / "store", "--base_model", "org/m")
    for part, rank in (("own", 3), ("shared", 2), ("whole", 5)):
        to = tmp_path / part
        assert run(*export, "--key", "sharing", "--part", part, "--to", to) == 0
        read = from_peft(to, tiny_base)
        assert (read.rank, read.shared_rows) == (rank, 2 if part == "whole" else 0)
        assert read.spec.scale == whole.spec.scale
    assert run(*export, "--key", "plain", "--part", "own", "--to", tmp_path / "none") == 2
    assert "without shared rows" in capsys.readouterr().err


def test_store_view_of_a_prefix_that_no_key_has(adapters, tmp_path, capsys):
    options = ("--path", adapters, "--to", tmp_path / "view", "--engine_model", "org/tiny")
    assert run("store", "view", *options, "--key", "four") == 2
    assert "got no key that begins with 'four'" in capsys.readouterr().err


def test_store_view_leaves_out_what_is_damaged_and_says_so(adapters, tmp_path, capsys):
    path, _ = adapters.rglob("adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    options = ("--path", adapters, "--to", tmp_path / "view", "--engine_model", "org/tiny")
    assert run("store", "view", *options) == 2
    printed = capsys.readouterr()
    assert "1 adapters of org/tiny" in printed.out and str(path) in printed.out
    assert "got 1 damaged adapters" in printed.err
    assert len(list((tmp_path / "view").iterdir())) == 1


@pytest.mark.parametrize("by", ["document", "chunk"])
def test_a_document_is_forgotten_with_its_chunks_and_a_chunk_alone(tmp_path, adapter, capsys, by):
    long = Document(" ".join(f"Bo lives in house {n}, far away." for n in range(9)), "Bo")
    chunks = chunk_document(long, byte_tokenizer(), 64)
    other = Document("Ada lives in Tarn.", "Ada")
    with AdapterStore(tmp_path / "store") as opened:
        for document in (*chunks, other):
            opened.put_record("document", document.id, asdict(document))
            opened.put(f"{document.id}-x", adapter)
    key, gone = (long.id, chunks) if by == "document" else (chunks[1].id, chunks[1:2])
    assert run("store", "forget", "--path", tmp_path / "store", "--key", key) == 0
    count = f"{len(chunks)} documents" if by == "document" else "1 document"
    assert f"{count} forgotten" in capsys.readouterr().out
    left = {d.id for d in (*chunks, other)} - {d.id for d in gone}
    with AdapterStore(tmp_path / "store") as opened:
        assert {*opened.record_keys("document")} == left
        assert {*opened.keys()} == {f"{i}-x" for i in left}
