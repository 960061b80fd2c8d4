"""The trained path's defaults: what is shipped for the base model, and less where nothing is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hypernet.network.checkpoint import save_checkpoint
from prag_core.adapters.adapter import AdapterSpec
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.question_lists import ListAugmenter
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.augmentation.writing_augmenter import WritingAugmenter
from prag_core.formats.peft_folder import to_peft
from prag_core.model import checkpoints
from prag_core.model.catalogue import EMBEDDED_NAME
from prag_core.pipeline import parts
from prag_core.pipeline.parts import build_augmenter, build_parametrizer, build_retriever
from prag_core.pipeline.setup import AugmentationOptions, Setup
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.invented_documents import LIGHT
from tests.fixtures.tiny import family_model, random_adapter


@pytest.fixture
def shipped(tiny_base, tmp_path, monkeypatch):
    """Return what ships an adapter of a kind for the tiny model."""
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)

    def ship(kind: str, seed: int, base=tiny_base, name="tiny"):
        layers = tuple(range(base.num_layers))
        spec = AdapterSpec(base.fingerprint, rank=3, alpha=32, layers=layers)
        adapter = random_adapter(spec, base, seed)
        to_peft(adapter, tmp_path / f"{name}-{kind}", name)
        return adapter

    return ship


def test_the_default_takes_what_is_shipped(tiny_base, shipped):
    setup = Setup(path="trained")
    alone = Setup(path="trained", augmentation=AugmentationOptions(adapter=""))
    bare = build_parametrizer(tiny_base, alone, None)
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


def test_where_none_is_shipped_the_embedded_model_asks(tiny_base, shipped, monkeypatch):
    embedded = family_model("qwen2")
    loaded = []

    def load(*named):
        loaded.append(named)
        return embedded

    monkeypatch.setattr(parts, "load_base_model", load)
    with pytest.raises(ValueError, match="none is shipped"):
        build_augmenter(tiny_base, AugmentationOptions(), None)
    shipped("writer", 0, embedded, EMBEDDED_NAME)
    assert build_augmenter(tiny_base, AugmentationOptions(), None).base is embedded
    assert {*loaded} == {(EMBEDDED_NAME, "float32", "cpu")}  # as the base model computes
    shipped("writer", 0)
    assert build_augmenter(tiny_base, AugmentationOptions(), None).base is tiny_base


def test_without_the_embedded_model_the_error_says_what_else_there_is(
    tiny_base, shipped, monkeypatch
):
    def nowhere(name, *_):
        raise FileNotFoundError(f"got no {name}")

    monkeypatch.setattr(parts, "load_base_model", nowhere)
    with pytest.raises(FileNotFoundError, match=r"got no smollm2-135m.*augmentation.adapter ''"):
        build_augmenter(tiny_base, AugmentationOptions(), None)
    with pytest.raises(FileNotFoundError, match=r"^got no other$"):
        build_augmenter(tiny_base, AugmentationOptions(model="other"), None)


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


def test_settings_reach_the_parts(tiny_base, tmp_path):
    save_checkpoint(tmp_path / "network", network(tiny_base), CONFIG, tiny_base)
    setup = Setup(path="generated", hypernet=str(tmp_path / "network"), hypernet_dtype="int8")
    small = build_parametrizer(tiny_base, replace(setup, hypernet_rank=8), None)
    assert (small.rank, small.spec.dtype) == (8, "int8")
    assert build_parametrizer(tiny_base, setup, None).rank is None
    start = LoraTrainingOptions(init="generated", rank=8, max_steps=1)
    spans = AugmentationOptions(strategy="span")
    begun = replace(setup, path="trained", training=start, augmentation=spans)
    assert build_parametrizer(tiny_base, begun, None).spec.modules == ("down_proj",)
    assert build_retriever(Setup(least_coverage=0.75))._least_coverage == 0.75
    with pytest.raises(ValueError, match="got least_coverage 2"):
        build_retriever(Setup(retriever="bm25s", least_coverage=2))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"strategy": "self", "facts": True}, "facts"),
        ({"file": "pairs.jsonl", "facts": True}, "facts"),
        ({"file": "pairs.jsonl", "rewrites": 1}, "rewrites"),
        ({"file": "pairs.jsonl", "model": "other"}, "model"),
        ({"strategy": "span", "file": "pairs.jsonl"}, "file"),
        ({"strategy": "span", "model": "other"}, "model"),
        ({"model": "other", "adapter": "folder"}, "adapter"),
        ({"model": "other", "reader": "auto"}, "reader"),
        ({"adapter": "", "reader": "auto"}, "reader"),
    ],
)
def test_what_a_strategy_does_not_read_is_refused(tiny_base, options, name):
    with pytest.raises(ValueError, match=rf"got augmentation\.{name} .*does not read it"):
        build_augmenter(tiny_base, AugmentationOptions(**options), None)


def test_a_named_file_is_read(tiny_base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    named = AugmentationOptions(file=str(path))
    with pytest.raises(FileNotFoundError, match="expected question-answer pairs"):
        build_augmenter(tiny_base, named, None, [LIGHT])
    path.write_text(json.dumps({"document": LIGHT.title, "question": "Who?", "answer": "Ida"}))
    (augmented,) = build_augmenter(tiny_base, named, None, [LIGHT]).augment([LIGHT])
    assert augmented.qa_pairs == (QAPair("Who?", "Ida"),)
