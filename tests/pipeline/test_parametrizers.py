"""The pipeline over all parametrizers: merging by hand, restarts, removal."""

from __future__ import annotations

import pytest

from prag_core.adapters.merge import merge
from prag_core.augmentation.augmented import CachedAugmenter
from prag_core.model.generate import generate
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.retriever import Hit
from prag_core.training.lora_trainer import LoraTrainer
from tests.fixtures.parametrizers import CORPUS, OnePairAugmenter, make_parametrizer
from tests.fixtures.pipelines import QUESTIONS, SHORT, prompts, texts


@pytest.fixture(params=["random", "trained", "generated"])
def parametrizer(request, tiny_base):
    return make_parametrizer(request.param, tiny_base)


@pytest.fixture
def rag(tiny_base, parametrizer, store):
    """A pipeline with the corpus and its adapters."""
    made = ParametricRAG(tiny_base, parametrizer=parametrizer, store=store, generation=SHORT)
    return made.add_documents(CORPUS)


def test_parametric_and_combine_equal_merging_by_hand(rag, tiny_base, parametrizer):
    hits = rag.retrieve(QUESTIONS, k=2)
    ids = [[hit.document_id for hit in row] for row in hits]
    made = dict(zip([d.id for d in CORPUS], parametrizer.parametrize(CORPUS), strict=True))
    merged = [
        merge([made[hit.document_id] for hit in row], [hit.score / row[0].score for hit in row])
        for row in hits
    ]
    parametric = rag.answer(QUESTIONS, "parametric", k=2)
    assert texts(parametric) == generate(tiny_base, prompts(tiny_base), merged, SHORT)
    sources = [[Hit(s.document_id, s.score) for s in a.documents] for a in parametric]
    assert sources == hits
    passages = [[rag.documents[i] for i in row] for row in ids]
    expected = generate(tiny_base, prompts(tiny_base, passages), merged, SHORT)
    assert texts(rag.answer(QUESTIONS, "combine", k=2)) == expected
    closed = rag.answer(QUESTIONS, "closed_book")
    assert texts(closed) == generate(tiny_base, prompts(tiny_base), None, SHORT)
    assert texts(closed) != texts(parametric)
    assert all(answer.documents == () for answer in closed)


def test_stored_adapters_are_found_after_a_restart(rag, tiny_base, parametrizer, store, tmp_path):
    expected = rag.answer(QUESTIONS, "combine", k=2)
    store.close()
    again = ParametricRAG(
        tiny_base, parametrizer=parametrizer, store=tmp_path / "store", generation=SHORT
    )
    assert again.documents == {document.id: document for document in CORPUS}
    assert again.documents[CORPUS[0].id].metadata == {"year": 1901}
    assert again.answer(QUESTIONS, "combine", k=2) == expected
    again.store.close()


def test_removed_documents_are_gone(rag, store):
    first, second = CORPUS[0].id, CORPUS[1].id
    rag.remove_documents([first, first])
    assert first not in rag.documents
    assert store.get_record("document", first) is None
    assert not list(store.keys(prefix=first))
    assert len(store) == 3
    found = [hit.document_id for row in rag.retrieve(QUESTIONS, k=9) for hit in row]
    assert first not in found
    assert second in found
    with pytest.raises(ValueError, match="got unknown document ids"):
        rag.adapter(first)
    rag.add_documents([CORPUS[0]])
    assert rag.adapter(first).metadata["document_id"] == first


def test_removal_forgets_augmentations_and_adapters_of_the_whole_corpus(tiny_base, store):
    augmenter = CachedAugmenter(OnePairAugmenter(), store)
    rag = ParametricRAG(tiny_base, parametrizer=LoraTrainer(tiny_base, augmenter), store=store)
    rag.add_documents(CORPUS[:2])
    rag.train_global()
    rag.remove_documents([CORPUS[0].id])
    kept = [key for key, _ in store.records("augmentation")]
    assert [key.split("-")[0] for key in kept] == [CORPUS[1].id]
    assert [key.split("-")[0] for key in store.keys("")] == [CORPUS[1].id]
