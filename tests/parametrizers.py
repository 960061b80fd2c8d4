"""A small corpus, and the parametrizers that the tests of the pipeline run over."""

from __future__ import annotations

from dataclasses import replace

from conftest import random_adapter
from hypernet_fixtures import CONFIG, network

from hypernet.checkpoint import Checkpoint
from hypernet.parametrizer import HypernetParametrizer
from hypernet.refine import RefinedParametrizer
from prag_core.adapter import AdapterSpec
from prag_core.augmentation import AugmentedDocument, QAPair
from prag_core.documents import Document
from prag_core.lora_training import LoraTrainer
from prag_core.training_loop import LoraTrainingOptions, RefineOptions

CORPUS = [
    Document("Mira Voss was born in Tarn.", "Mira Voss", "source1", {"year": 1901}),
    Document("Oss has a mill that stands still in May.", "Oss"),
    Document("The river Elm flows through Tarn and Oss to the sea.", "Elm"),
    Document("Jan Roth built the bridge of Oss.", "Jan Roth"),
]


class OnePairAugmenter:
    """One rewrite and one question-answer pair a document."""

    fingerprint = "one pair"

    def augment(self, documents):
        return [
            AugmentedDocument(d, (d.text.upper(),), (QAPair(f"What of {d.title}?", d.text[:9]),))
            for d in documents
        ]


class RandomParametrizer:
    """Random adapters, the same for the same document; counts what it makes."""

    def __init__(self, base, fail_in_batch: int = 0) -> None:
        self.base, self.batch_size, self.fail_in_batch = base, 2, fail_in_batch
        self.spec = AdapterSpec(base.fingerprint, rank=2, alpha=8, layers=(0, 1))
        self.fingerprint = "random"
        self.batches = []

    def parametrize(self, documents):
        if len(self.batches) + 1 == self.fail_in_batch:
            raise KeyboardInterrupt
        self.batches.append([document.id for document in documents])
        return [
            replace(
                random_adapter(self.spec, self.base, seed=int(document.id[:6], 16)),
                metadata={"document_id": document.id},
            )
            for document in documents
        ]


def make_parametrizer(name: str, base):
    """Build one of the parametrizers that the shared tests run over."""
    if name == "random":
        return RandomParametrizer(base)
    if name == "trained":
        options = LoraTrainingOptions(learning_rate=1e-2, scheme="recall", documents_per_batch=2)
        return LoraTrainer(base, OnePairAugmenter(), options)
    checkpoint = Checkpoint(network(base), CONFIG, "random", {})
    generated = HypernetParametrizer(base, checkpoint, dtype="float32", batch_size=2)
    if name == "generated":
        return generated
    return RefinedParametrizer(generated, OnePairAugmenter(), RefineOptions(documents_per_batch=2))
