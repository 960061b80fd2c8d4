"""Batches: what a step's rows show."""

from __future__ import annotations

import random
from collections import Counter
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


def test_pools_have_their_share_and_their_documents_count_alike(tiny_base):
    """Whatever the lengths of a pool's documents, and of how many documents it has."""
    tokenizer = tiny_base.tokenizer
    few = [Document(f"{name} lies there. " * (1 if name == "A" else 40), name) for name in "ABC"]
    many = [Document(f"Town {number} has a mill.", str(number)) for number in range(60)]
    long = [Document(f"Town {number} has a mill. " * 15, f"long {number}") for number in range(20)]
    pools = [
        make_items(tokenizer, documents, [[("Where?", "There")] for _ in documents])
        for documents in (few, [*many, *long])
    ]
    config = BatchConfig(documents=1, groups=(1,), questions=1, completions=0, unrelated=0)
    builder = BatchBuilder(tokenizer, pools, [0.75, 0.25], config)
    assert len(builder.classes) > 2
    drawn = Counter(builder.build(step)["document_ids"][0] for step in range(1000))
    shares = [drawn[document.id] / 1000 for document in few]
    assert shares == pytest.approx([0.25] * 3, abs=0.05)
    assert sum(drawn[document.id] for document in long) / 1000 == pytest.approx(1 / 16, abs=0.03)
    alone = BatchBuilder(tokenizer, pools, [0.0, 1.0], config)
    assert not {alone.build(step)["document_ids"][0] for step in range(200)} & {d.id for d in few}
    with pytest.raises(ValueError, match=r"got weights \[0.0, 0.0\] of pools with \[3, 80\] docu"):
        BatchBuilder(tokenizer, pools, [0.0, 0.0], config)


@pytest.mark.parametrize("words", range(1, 8))
def test_a_completion_of_a_short_text_has_something_to_predict(tiny_base, words):
    text = " ".join(["one", "two", "three", "four", "five", "six", "seven"][:words])
    (item,) = items = make_items(tiny_base.tokenizer, [Document(text, "A")])
    builder = BatchBuilder(tiny_base.tokenizer, [items], [1.0], BatchConfig(1, (1,)))
    if len(item.text_ids) > 1:
        for seed in range(30):
            row, start = builder._completion(item, random.Random(seed))
            assert len(row) > start
