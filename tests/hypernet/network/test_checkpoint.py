"""Checkpoints: round trip and what is refused."""

from __future__ import annotations

import json
from errno import ENOSPC

import pytest
import torch
from safetensors.torch import load_file, save_file

from hypernet.cli import main
from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import (
    continued,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from hypernet.network.config import NetworkConfig
from prag_core.corpus.documents import Document
from prag_core.pipeline.setup import Setup
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.tiny import tiny_model


@pytest.fixture
def folder(tiny_base, tmp_path):
    return save_checkpoint(tmp_path / "net", network(tiny_base), CONFIG, tiny_base)


def test_round_trip(tiny_base, tmp_path):
    head = network(tiny_base)
    folder = save_checkpoint(tmp_path, head, CONFIG, tiny_base, dtype=torch.float32)
    loaded = load_checkpoint(folder, tiny_base)
    assert loaded.config == CONFIG
    for key, value in head.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value)
    assert loaded.hash == load_checkpoint(folder, tiny_base).hash


def test_a_full_disk_leaves_the_folder_as_it_was(folder, tiny_base, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(ENOSPC, "No space left on device")

    names, before = sorted(folder.iterdir()), load_checkpoint(folder, tiny_base).hash
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(folder, network(tiny_base), CONFIG, tiny_base)
    assert sorted(folder.iterdir()) == names
    assert load_checkpoint(folder, tiny_base).hash == before


def test_adapters_record_the_prompt_that_their_checkpoint_names(folder, tiny_base):
    record = json.loads((folder / "config.json").read_text())
    for training, expected in (({"prompt": "older"}, "older"), ({}, "")):
        (folder / "config.json").write_text(json.dumps(record | {"training": training}))
        loaded = load_checkpoint(folder, tiny_base)
        assert loaded.prompt == expected
        made = HypernetParametrizer(tiny_base, loaded, max_tokens=64)
        (adapter,) = made.parametrize([Document("Ana likes red.", "Ana")])
        assert adapter.metadata["prompt"] == expected


def test_another_base_model_is_refused(folder):
    with pytest.raises(ValueError, match=r"got a checkpoint .*--path trained"):
        load_checkpoint(folder, tiny_model(seed=1))


def test_missing_and_foreign_tensors_are_refused(folder, tiny_base):
    tensors = load_file(folder / "model.safetensors")
    tensors["extra_weight"] = tensors.pop("gate.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing, foreign or misshapen tensors"):
        load_checkpoint(folder, tiny_base)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 99}, "got version 99"),
        ({"network": {"head": "unknown", "layers": [0]}}, "got head 'unknown'"),
        (
            {"network": {"layers": [0, 1], "widht": 16}},
            r"got unknown network settings \['widht'\]",
        ),
        ({"network": {"width": 16}}, "got no layers in .*expected layers"),
    ],
)
def test_other_versions_and_heads_are_refused(folder, tiny_base, change, text):
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=text):
        load_checkpoint(folder, tiny_base)


def test_damaged_files_are_named(folder, tiny_base):
    record = json.loads((folder / "config.json").read_text())
    del record["network"]
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"got no \['network'\] in .*config.json"):
        load_checkpoint(folder, tiny_base)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="got version None in"):
        load_checkpoint(folder, tiny_base)
    folder = save_checkpoint(folder, network(tiny_base), CONFIG, tiny_base)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"got a damaged .*model.safetensors"):
        load_checkpoint(folder, tiny_base)


def test_export_refuses_what_fit_did_not_write(tmp_path, capsys):
    for name, content in {"empty": b"", "text": b"no checkpoint", "zip": b"PK\3\4half"}.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        assert main(["export", str(tmp_path / f"{name}.ckpt"), str(tmp_path / "out")]) == 2
        assert "expected a .ckpt file of `hypernet fit`" in capsys.readouterr().err
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    assert main(["export", str(tmp_path / "foreign.ckpt"), str(tmp_path / "out")]) == 2
    assert "KeyError: 'network_config'" in capsys.readouterr().err


def test_shipped_name_is_known_in_any_folder_and_a_path_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_checkpoint("smollm2-135m-ridge")
    own = tmp_path / "smollm2-135m-ridge"
    own.mkdir()
    for name in ("config.json", "model.safetensors"):
        (own / name).write_bytes(b"")
    assert find_checkpoint("smollm2-135m-ridge") == shipped
    assert find_checkpoint(own) == own


def test_the_shipped_checkpoint_of_a_base_model_is_chosen(tiny_base, tmp_path, monkeypatch):
    head = network(tiny_base)
    monkeypatch.setattr("hypernet.network.checkpoint.SHIPPED", tmp_path)
    other = save_checkpoint(tmp_path / "a", network(tiny_model(1)), CONFIG, tiny_model(1))
    folder = save_checkpoint(tmp_path / "b", head, CONFIG, tiny_base)
    checkpoint = load_checkpoint(Setup().hypernet, tiny_base)
    assert checkpoint.hash == load_checkpoint(folder, tiny_base).hash
    assert load_checkpoint("auto", tiny_model(1)).hash == load_checkpoint(other, tiny_model(1)).hash
    with pytest.raises(FileNotFoundError, match="no hypernetwork is shipped, expected a"):
        load_checkpoint("auto", tiny_model(2))


def test_a_missing_shipped_name_does_not_ask_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(FileNotFoundError, match="got no checkpoint at checkpoints/none, expected"):
        find_checkpoint("checkpoints/none")


def test_missing_checkpoint_names_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="smollm2-135m-ridge"):
        find_checkpoint("no-such-checkpoint")


def test_what_is_not_set_follows_from_the_base_model_or_the_weights(tiny_base, folder):
    small, large = NetworkConfig().fitted(30, 576), NetworkConfig().fitted(32, 4096)
    assert small.layers == (4, 7, 10, 13, 16, 19, 22, 25)
    assert (small.width, small.attention_heads) == (384, 6)
    assert (large.layers, large.width) == ((4, 7, 10, 13, 17, 20, 23, 26), 1024)
    for depth in range(1, 9):  # never a layer that is not there
        assert max(NetworkConfig().fitted(depth, 8).layers) < depth
    assert NetworkConfig(width=128, layers=(1,)).fitted(30, 576).layers == (1,)
    config = continued(
        str(folder), NetworkConfig(shared_rows=3, blocks=1, rows=4), tiny_base
    ).config
    assert config == CONFIG
