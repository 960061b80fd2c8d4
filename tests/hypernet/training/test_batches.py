"""Batches: what a step's rows show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypernet.training.batches import BatchBuilder, BatchConfig
from hypernet.training.sources import make_items
from prag_core.corpus.documents import Document

DOCUMENTS = [Document(f"Town {name} lies on the river {name * 2}.", name) for name in "ABCD"]


def build(tokenizer, config, step):
    items = make_items(tokenizer, DOCUMENTS, [[(f"Where is {d.title}?", "Yes")] for d in DOCUMENTS])
    return BatchBuilder(tokenizer, [items], [1.0], config).build(step)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 8, 24), (1.0, 32, 32)])
def test_some_questions_show_their_own_passage(tiny_base, share, least, most):
    """A document's all alike; nothing else of the step is another one then."""
    tokenizer, count = tiny_base.tokenizer, 0
    plain = BatchConfig(documents=4, groups=(1, 4), questions=2, completions=1, near_share=0.0)
    for step in range(8):
        batch = build(tokenizer, replace(plain, combine_share=share), step)
        without = build(tokenizer, plain, step)
        assert batch["document_ids"] == without["document_ids"]
        assert (batch["targets"] == without["targets"]).all()
        texts = {document.id: document.text for document in DOCUMENTS}
        for row, own in zip(batch["rows"].ids, batch["document_ids"], strict=True):
            asked = tokenizer.decode(row).split("Passage 1: ")
            # Packed, the beginning that both questions have in common stands once.
            assert len(asked) <= 2
            count += len(asked) - 1
            assert len(asked) == 1 or texts[own] in asked[1]
    assert least <= count <= most
