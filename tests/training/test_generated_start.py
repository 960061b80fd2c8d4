"""Started from the generated adapter: B is trained, what the rows answer to is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.hypernetworks import DOCUMENTS, parametrizer

OPTIONS = LoraTrainingOptions(init="generated", dtype="float32", max_steps=3, learning_rate=1e-2)


@pytest.fixture
def generator(tiny_base, tmp_path):
    return parametrizer(tiny_base, tmp_path / "network")


def test_only_b_of_the_documents_own_rows_is_trained(tiny_base, generator):
    trainer = LoraTrainer(tiny_base, SpanAugmenter(0, 2), OPTIONS, generator)
    starts = generator.parametrize(DOCUMENTS[:3])
    trained = trainer.parametrize(DOCUMENTS[:3])
    assert trainer.spec == generator.spec
    for start, made, document in zip(starts, trained, DOCUMENTS, strict=False):
        assert made.metadata["document_id"] == document.id and made.metadata["path"] == "trained"
        assert made.shared_rows == start.shared_rows > 0
        # A merge solves the keys again, as it does with generated adapters.
        assert made.memory.gram.equal(start.memory.gram)
        for path in start.tensors:
            (a, b), shared = start.split(path)
            (trained_a, trained_b), trained_shared = made.split(path)
            assert torch.equal(trained_a, a)
            assert (trained_b - b).abs().max() > 1e-3
            assert all(map(torch.equal, trained_shared, shared))


def test_without_a_step_that_counts_it_is_the_generated_adapter(tiny_base, generator):
    options = replace(OPTIONS, learning_rate=1e-12)
    trainer = LoraTrainer(tiny_base, SpanAugmenter(0, 2), options, generator)
    for start, made in zip(
        generator.parametrize(DOCUMENTS), trainer.parametrize(DOCUMENTS), strict=True
    ):
        for path, pair in start.tensors.items():
            for ours, theirs in zip(made.tensors[path], pair, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_together_equals_one_by_one(tiny_base, generator):
    trainer = LoraTrainer(tiny_base, SpanAugmenter(0, 2), OPTIONS, generator)
    together = trainer.parametrize(DOCUMENTS)
    for document, made in zip(DOCUMENTS, together, strict=True):
        (alone,) = trainer.parametrize([document])
        for path, (_, b) in alone.tensors.items():
            torch.testing.assert_close(made.tensors[path][1], b, rtol=0, atol=1e-4)


def test_one_adapter_of_all_documents_starts_at_random(tiny_base, tmp_path):
    generator = parametrizer(tiny_base, tmp_path / "network", rank=6)
    augmenter = SpanAugmenter(0, 2)
    trainer = LoraTrainer(tiny_base, augmenter, OPTIONS, generator)
    made = trainer.train_global(augmenter.augment(DOCUMENTS[:2]))
    assert made.spec == trainer.spec and made.memory is None and not made.shared_rows
    for path, (a, b) in trainer.start.tensors.items():
        assert not made.tensors[path][0].equal(a) and not made.tensors[path][1].equal(b)


def test_fingerprint_covers_the_network_and_its_rank(tiny_base, generator, tmp_path):
    other = parametrizer(tiny_base, tmp_path / "other", rank=4)
    made = [
        LoraTrainer(tiny_base, SpanAugmenter(0, 2), replace(OPTIONS, init=init), start).fingerprint
        for init, start in (("generated", generator), ("generated", other), ("", None))
    ]
    assert len({*made}) == 3


def test_the_option_alone_is_refused(tiny_base):
    with pytest.raises(ValueError, match=r"got training\.init 'generated' without its adapter"):
        LoraTrainer(tiny_base, SpanAugmenter(0, 2), OPTIONS)
