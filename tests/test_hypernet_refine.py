"""Refined path: a generated adapter's own values are trained; addresses and shared rows stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypernet_fixtures import DOCUMENTS, parametrizer
from torch.nn.functional import cross_entropy

from hypernet.refine import RefinedParametrizer
from prag_core.attach import attached
from prag_core.augmentation import AugmentedDocument, QAPair
from prag_core.documents import Document
from prag_core.merge import merge
from prag_core.training_loop import RefineOptions
from prag_core.training_sequences import build_sequences

UNEVEN = [*DOCUMENTS[:2], Document("Gus likes " + "very " * 9 + "tea", "Gus")]
OPTIONS = RefineOptions(learning_rate=3e-2, epochs=3)
SHARED = 3  # rows of the fixture's network


class FactAugmenter:
    """One question a document."""

    fingerprint = "facts"

    def augment(self, documents):
        return [
            AugmentedDocument(d, (), (QAPair(f"What does {d.title} like?", d.text.split()[-1]),))
            for d in documents
        ]


@pytest.fixture
def generated(tiny_base, tmp_path):
    return parametrizer(tiny_base, tmp_path / "network")


def refine(generated, documents, **changes):
    options = replace(OPTIONS, **changes)
    return RefinedParametrizer(generated, FactAugmenter(), options).parametrize(documents)


def loss(base, adapter, document) -> float:
    """NLL of the document's answer with the adapter attached."""
    augmented = FactAugmenter().augment([document])[0]
    sequence = build_sequences(base.tokenizer, augmented, "recall", 64)[0]
    ids = torch.tensor([sequence.ids])
    with torch.no_grad(), attached(base, adapter):
        logits = base.model(input_ids=ids).logits[0, sequence.answer_start - 1 : -1]
    return cross_entropy(logits, ids[0, sequence.answer_start :]).item()


def test_own_values_are_trained_and_nothing_else(tiny_base, generated):
    starts, refined = generated.parametrize(UNEVEN), refine(generated, UNEVEN)
    for before, after, document in zip(starts, refined, UNEVEN, strict=True):
        assert after.metadata["path"] == "refined"
        assert after.metadata["document_id"] == document.id
        assert after.extra.keys() == before.extra.keys()
        for path, (a, b) in before.tensors.items():
            new_a, new_b = after.tensors[path]
            assert torch.equal(new_a, a)
            assert torch.equal(new_b[:, -SHARED:], b[:, -SHARED:])
            assert not torch.equal(new_b[:, :-SHARED], b[:, :-SHARED])
        assert loss(tiny_base, after, document) < loss(tiny_base, before, document) - 0.01


def test_refined_together_equals_one_by_one(generated):
    for document, together in zip(UNEVEN, refine(generated, UNEVEN), strict=True):
        alone = refine(generated, [document])[0]
        for path, pair in together.tensors.items():
            for mine, other in zip(pair, alone.tensors[path], strict=True):
                torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_refined_adapters_merge_as_generated_ones(generated):
    short = [Document("Gus: tea"), Document("Hal: ale")]  # fewer rows than the model has outputs
    merged = merge(refine(generated, short))
    addresses = merge(generated.parametrize(short))
    for path, (a, _) in merged.tensors.items():
        torch.testing.assert_close(a, addresses.tensors[path][0])


def test_fingerprint_follows_what_changes_the_adapters(generated):
    def made(**changes):
        return RefinedParametrizer(generated, FactAugmenter(), replace(OPTIONS, **changes))

    assert made().fingerprint == made(documents_per_batch=1).fingerprint
    assert len({p.fingerprint for p in (generated, made(), made(epochs=9), made(seed=1))}) == 4


def test_settings_out_of_range_are_refused(generated):
    with pytest.raises(ValueError, match="got epochs 0, expected 1 or more"):
        refine(generated, UNEVEN, epochs=0)
