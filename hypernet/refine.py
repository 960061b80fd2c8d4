"""Parametrizer of the refined path: a generated adapter, then a few gradient steps on its values.

The document's own columns of B are trained; A (the ridge memory's addresses) and the rows that all
documents share stay, so that refined adapters merge as generated ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypernet.parametrizer import HypernetParametrizer
from prag_core.adapter import DTYPES, Adapter, fingerprint
from prag_core.augmentation import Augmenter
from prag_core.documents import Document
from prag_core.stacked_lora import StackedLora
from prag_core.training_loop import RefineOptions, fit, group_documents
from prag_core.training_sequences import build_sequences


class RefinedParametrizer:
    """Generates an adapter a document and trains its values on the document (`Parametrizer`)."""

    def __init__(
        self,
        generated: HypernetParametrizer,
        augmenter: Augmenter,
        options: RefineOptions | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            generated: makes the adapters to start from.
            augmenter: makes the question-answer pairs to train on.
            options: training settings.

        Raises:
            ValueError: settings out of range.
        """
        self.generated, self.augmenter = generated, augmenter
        self.base, self.spec = generated.base, generated.spec
        self.options = (options or RefineOptions()).training()
        self.batch_size = self.options.documents_per_batch
        quality = {
            name: getattr(self.options, name)
            for name in ("learning_rate", "epochs", "sequences_per_step", "seed")
        }
        parts = ["refined", generated.fingerprint, augmenter.fingerprint, quality]
        self.fingerprint = fingerprint(parts)

    def parametrize(self, documents: Sequence[Document]) -> list[Adapter]:
        """Return one adapter a document, in order.

        Raises:
            ValueError: a document without text.
        """
        starts = self.generated.parametrize(documents)
        longest = min(self.options.max_tokens, self.base.context_length)
        sequences = [
            build_sequences(self.base.tokenizer, augmented, self.options.scheme, longest)
            for augmented in self.augmenter.augment(documents)
        ]
        shared = self.generated.network.shared_count
        refined: list = [None] * len(documents)
        for group in group_documents(sequences, self.options):
            tensors = [starts[i].tensors for i in group]
            stack = StackedLora(self.base, self.spec, tensors, fixed_rows=shared)
            fit(self.base, stack, [sequences[i] for i in group], self.options)
            for row, index in enumerate(group):
                refined[index] = replace(
                    starts[index],
                    tensors=stack.tensors(row, DTYPES[self.spec.dtype]),
                    metadata={**starts[index].metadata, "path": "refined"},
                )
        return refined
