"""The trained path's defaults: what is shipped for the base model, and less where nothing is."""

from __future__ import annotations

import pytest

from prag_core.adapters.adapter import AdapterSpec
from prag_core.augmentation.question_lists import ListAugmenter
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.augmentation.writing_augmenter import WritingAugmenter
from prag_core.formats.peft_folder import to_peft
from prag_core.model import checkpoints
from prag_core.pipeline.parts import build_augmenter, build_parametrizer
from prag_core.pipeline.setup import AugmentationOptions, Setup
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def shipped(tiny_base, tmp_path, monkeypatch):
    """Return what ships an adapter of a kind for the tiny model."""
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    layers = tuple(range(tiny_base.num_layers))
    spec = AdapterSpec(tiny_base.fingerprint, rank=3, alpha=32, layers=layers)

    def ship(kind: str, seed: int):
        adapter = random_adapter(spec, tiny_base, seed)
        to_peft(adapter, tmp_path / f"tiny-{kind}", "tiny")
        return adapter

    return ship


def test_the_default_takes_what_is_shipped(tiny_base, shipped):
    setup = Setup(path="trained")
    bare = build_parametrizer(tiny_base, setup, None)
    assert isinstance(bare.augmenter, SpanAugmenter)
    assert bare.teacher is None and bare.start.shared_rows == 0
    made = {kind: shipped(kind, seed) for seed, kind in enumerate(("warmup", "reader", "writer"))}
    whole = build_parametrizer(tiny_base, setup, None)
    assert isinstance(whole.augmenter, ListAugmenter)
    path = whole.spec.paths()[0]
    assert whole.teacher.tensors[path][0].equal(made["reader"].tensors[path][0])
    assert whole.start.shared_rows == 3
    assert whole.start.tensors[path][0][-3:].equal(made["warmup"].tensors[path][0])
    assert whole.fingerprint != bare.fingerprint
    unread = Setup(path="trained", training=LoraTrainingOptions(distillation=0))
    assert build_parametrizer(tiny_base, unread, None).teacher is None


def test_a_named_model_or_adapter_writes(tiny_base, shipped, tmp_path):
    shipped("asking", 0)
    named = AugmentationOptions(adapter=str(tmp_path / "tiny-asking"))
    assert isinstance(build_augmenter(tiny_base, named, None), ListAugmenter)
    for part in (tiny_base.model, tiny_base.tokenizer):
        part.save_pretrained(tmp_path / "model")
    model = AugmentationOptions(model=str(tmp_path / "model"))
    assert isinstance(build_augmenter(tiny_base, model, None), WritingAugmenter)
    nobody = AugmentationOptions(adapter="")
    assert isinstance(build_augmenter(tiny_base, nobody, None), SpanAugmenter)
