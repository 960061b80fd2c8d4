"""Initial adapters: the shipped warm-up is that of the base model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.formats.peft_folder import to_peft
from prag_core.model import checkpoints
from prag_core.training.initial import WARMUP, load_adapter, load_reader, load_writer
from tests.fixtures.tiny import random_adapter


def test_the_shipped_warm_up_is_found_by_the_base_model(
    tiny_base, tiny_spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    assert load_adapter("", tiny_base, WARMUP) is None
    assert load_adapter("auto", tiny_base, WARMUP) is None  # none is shipped
    ours = random_adapter(tiny_spec, tiny_base)
    to_peft(replace(ours, spec=replace(tiny_spec, base_model="other")), tmp_path / "a-warmup", "a")
    assert load_adapter("auto", tiny_base, WARMUP) is None
    to_peft(ours, tmp_path / "tiny-warmup", "tiny")
    to_peft(random_adapter(tiny_spec, tiny_base, 2), tmp_path / "tiny-ridge", "tiny")
    path = tiny_spec.paths()[0]
    for name in ("auto", str(tmp_path / "tiny-warmup")):
        loaded = load_adapter(name, tiny_base, WARMUP)
        assert loaded.tensors[path][0].equal(ours.tensors[path][0])


@pytest.mark.parametrize(
    ("load", "kind", "message"),
    [
        (load_writer, "writer", r"got augmentation.adapter 'auto', .* prag writer"),
        (load_reader, "reader", r"got reader 'auto', .* prag reader"),
    ],
)
def test_a_shipped_one_is_found_by_the_base_model_or_asked_for(
    tiny_base, tiny_spec, tmp_path, monkeypatch, load, kind, message
):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    with pytest.raises(ValueError, match=message):
        load("auto", tiny_base)
    ours = random_adapter(tiny_spec, tiny_base)
    to_peft(ours, tmp_path / f"tiny-{kind}", "tiny")
    path = tiny_spec.paths()[0]
    for name in ("auto", str(tmp_path / f"tiny-{kind}")):
        assert load(name, tiny_base).tensors[path][0].equal(ours.tensors[path][0])


def test_without_a_name_there_is_no_reader(tiny_base):
    assert load_reader("", tiny_base) is None
