"""`prag store`: adapters are listed, checked, moved out, deleted and moved in."""

from __future__ import annotations

from prag_core.adapters.store import AdapterStore
from prag_core.formats.peft_folder import from_peft
from tests.fixtures.command_line import run
from tests.fixtures.tiny import tiny_model


def test_adapters_leave_and_enter_a_store(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    assert run("store", "verify", "--path", store) == 0
    assert run("store", "list", "--path", store) == 0
    key = capsys.readouterr().out.splitlines()[1].split("\t")[0]
    assert run("store", "compact", "--path", store) == 0
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
