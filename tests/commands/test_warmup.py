"""`prag warmup`: an initial adapter, which the trained path starts from."""

from __future__ import annotations

from tests.fixtures.command_line import run


def test_warmup_trains_an_initial_adapter(corpus, options, tmp_path, capsys):
    start = tmp_path / "warm"
    shared = [option for option in options if "augmentation" not in option]
    assert run("warmup", corpus, start, *shared) == 0
    assert (start / "adapter_config.json").exists()
    store = tmp_path / "s"
    assert run("parametrize", corpus, "--store", store, f"--training.init={start}", *options) == 0
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "holds 12 adapters" in capsys.readouterr().out  # other start, other adapters
    wrong = [f"--training.init={start}", "--training.rank=3"]
    assert run("parametrize", corpus, "--store", store, *wrong, *options) == 2
    assert "initial adapter" in capsys.readouterr().err
