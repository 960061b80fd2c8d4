"""A network's adapters in every condition, through the same evaluation as any other's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hypernet.training.scores import score_network
from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import mean_adapter, merge, merge_weights
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.assignment import neighbours
from prag_core.evaluation.results import answers_path, read_answers
from prag_core.evaluation.unrelated import UnrelatedTexts, text_losses
from prag_core.model.generate import generate
from prag_core.model.prompts import question_prompt
from prag_core.pipeline.answerer import shared_rows
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.factory import make_retriever
from tests.fixtures.hypernetworks import DOCUMENTS, FACTS, parametrizer

QUESTIONS = tuple(
    Question(f"q{d.title}", f"What does {d.title} like?", (FACTS[d.title],), (d.id,))
    for d in DOCUMENTS
)
SAMPLE = QuestionSet("sample", tuple(DOCUMENTS), QUESTIONS)


def expected_adapter(name: str, own: list, place: int):
    """Return what a condition attaches, by hand."""
    others = neighbours(DOCUMENTS, 2, 0)[place]
    group = [own[index] for index in (place, *others)]
    if name == "gold+2":
        return merge(group)
    if name == "gold+2:concatenate":
        return merge(group, None, "concatenate")
    if name == "gold+2:relative":
        (hits,) = make_retriever("auto", DOCUMENTS).retrieve([QUESTIONS[place].question], 6)
        scores = {hit.document_id: hit.score for hit in hits}
        found = [scores.get(DOCUMENTS[index].id, 0.0) for index in (place, *others)]
        return merge(group, merge_weights("relative", found))
    return {
        "closed_book": lambda: None,
        "in_context": lambda: None,
        "in_context_rows": lambda: shared_rows(own[0]),
        "gold": lambda: own[place],
        "combine": lambda: own[place],
        "shuffled": lambda: own[(place + 3) % 6],
        "mean": lambda: mean_adapter(own),
        "rank:8": lambda: reduce_rank(own[place], 8),
    }[name]()


@pytest.mark.parametrize(
    "name",
    ["closed_book", "in_context", "in_context_rows", "gold", "combine", "shuffled", "mean",
     "rank:8", "gold+2", "gold+2:concatenate", "gold+2:relative"],
)  # fmt: skip
def test_every_condition_attaches_and_shows_what_it_says(tiny_base, tmp_path, name):
    made = parametrizer(tiny_base, tmp_path / "network")
    own = made.parametrize(DOCUMENTS)
    score_network(made, SAMPLE, [name], tmp_path / "out")
    records = read_answers(answers_path(tmp_path / "out", name))
    reads = name.startswith(("in_context", "combine"))
    for place, question in enumerate(QUESTIONS):
        passages = DOCUMENTS[place : place + 1] if reads else ()
        prompt = question_prompt(tiny_base.tokenizer, question.question, passages)
        expected = generate(tiny_base, [prompt], expected_adapter(name, own, place))
        assert records[question.id]["prediction"] == expected[0]


def test_one_document_has_no_other(tiny_base, tmp_path):
    one = replace(SAMPLE, documents=SAMPLE.documents[:1], questions=SAMPLE.questions[:1])
    with pytest.raises(ValueError, match="got 1 documents"):
        score_network(parametrizer(tiny_base, tmp_path), one, ["shuffled"], tmp_path / "out")


def test_shared_rows_are_what_all_documents_have_in_common(tiny_base, tmp_path):
    first, second = parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:2])
    for path, (a, b) in shared_rows(first).tensors.items():
        assert a.shape[0] == 3
        assert torch.equal(a, second.tensors[path][0][-3:])
        assert torch.equal(b, second.tensors[path][1][:, -3:])


def test_unrelated_text_without_adapter_is_the_base_models(tiny_base, tmp_path):
    text = DOCUMENTS[0].text
    ids = tiny_base.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    first = ids.shape[1] // 2  # of a short text its second half counts
    labels = ids.clone()
    labels[:, :first] = -100
    expected = tiny_base.model(input_ids=ids, labels=labels).loss.item()
    (loss,), (tokens,) = text_losses(tiny_base, [text])
    assert tokens == ids.shape[1] - first and loss == pytest.approx(expected * tokens, rel=1e-5)
    (adapter,) = parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[2:3])
    assert text_losses(tiny_base, [text], [adapter])[0] != [loss]
    assert text_losses(tiny_base, [text], [adapter], 1e9) == (
        [loss],
        [tokens],
    )  # not meant: left out


def test_unrelated_texts_are_a_ratio_of_losses(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path / "network")
    rag = ParametricRAG(tiny_base, parametrizer=made, store=tmp_path / "store")
    rag.add_documents(DOCUMENTS)
    texts = UnrelatedTexts(tuple(f"Some {name} of {thing}." for name, thing in FACTS.items()))
    found = texts.measure(rag, DOCUMENTS[:6], 0)
    assert json.loads(json.dumps(found))["texts"] == 6
    ratio = found["ratio"]
    assert ratio["low"] <= ratio["mean"] <= ratio["high"] and ratio["mean"] != 1
    owners = [rag.adapter(d.id) for d in DOCUMENTS[:6]]
    totals = [sum(text_losses(tiny_base, texts.texts, adapters)[0]) for adapters in (None, owners)]
    assert ratio["mean"] == pytest.approx(totals[1] / totals[0])
