"""Relevance: memories tell what they are about; documents that are not meant are left out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge, weigh_rows
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.results import answers_path, read_answers
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.rag import ParametricRAG
from prag_core.pipeline.relevance import (
    focused,
    looking_layers,
    question_keys,
    relevance,
    relevant_hits,
)
from prag_core.retrieval.retriever import Hit
from tests.fixtures.hypernetworks import DOCUMENTS, parametrizer
from tests.fixtures.parametrizers import CORPUS, RandomParametrizer, make_parametrizer
from tests.fixtures.pipelines import QUESTIONS, SHORT, texts
from tests.fixtures.services import running_service


def about(document) -> str:
    return f"{document.title}: {document.text}"


def test_keys_are_the_models_own_whatever_the_batch(tiny_base):
    found = question_keys(tiny_base, QUESTIONS, [1])
    alone = [question_keys(tiny_base, [question], [1])[0] for question in QUESTIONS]
    ids = tiny_base.tokenizer(QUESTIONS[0], add_special_tokens=False).input_ids
    start = tiny_base.tokenizer.bos_token_id
    kept = []
    linear = tiny_base.model.get_submodule("model.layers.1.mlp.down_proj")
    handle = linear.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    tiny_base.model(input_ids=torch.tensor([[start, *ids]]))
    handle.remove()
    torch.testing.assert_close(found[0][1], kept[0][0, 1:])
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one[1], other[1])
    assert not linear._forward_pre_hooks  # nothing stays attached


def test_a_question_is_read_as_far_as_the_context_has_room(tiny_base):
    long = "Why? " * tiny_base.context_length
    whole, cut = question_keys(tiny_base, [long, long[: tiny_base.context_length - 1]], [0])
    assert len(whole[0]) == tiny_base.context_length - 1
    torch.testing.assert_close(whole[0], cut[0])


def test_a_memory_responds_most_to_its_own_document(tiny_base, tmp_path):
    adapters = parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS)
    keys = question_keys(tiny_base, [about(d) for d in DOCUMENTS], [0])
    scores = torch.tensor([[relevance(adapter, k) for adapter in adapters] for k in keys])
    assert scores.argmax(1).tolist() == list(range(len(DOCUMENTS)))
    a = adapters[0].tensors["model.layers.0.mlp.down_proj"][0][:-3]  # 3 rows are shared
    expected = torch.stack([max(row @ key for row in a) for key in keys[1][0]]).mean()
    assert scores[1, 0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_unknown_where_rows_are_no_addresses(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path)
    (own,) = made.parametrize(DOCUMENTS[:1])
    (random,) = RandomParametrizer(tiny_base).parametrize(CORPUS[:1])
    (keys,) = question_keys(tiny_base, [about(DOCUMENTS[0])], [0])
    assert relevance(random, keys) is None
    assert relevance(reduce_rank(own, 8), keys) is None
    assert relevance(own, {0: keys[0][:0]}) is None
    assert relevance(merge(made.parametrize(DOCUMENTS)), keys) is None  # rows multiplied out


def test_sentences_weigh_by_what_they_answer(tiny_base, tmp_path):
    document = Document("Ann likes tea. Bob likes jam. Cid likes rye.", "T")
    (adapter,) = parametrizer(tiny_base, tmp_path).parametrize([document])
    (keys,) = question_keys(tiny_base, ["Bob likes jam."], looking_layers(adapter))
    places, counts = adapter.memory.sentences, torch.zeros(3)
    for layer, path in zip(adapter.spec.layers, adapter.spec.paths(), strict=True):
        responses = keys[layer] @ adapter.split(path)[0][0].T  # (T, R)
        counts += torch.tensor(
            [sum(max(row[places == n].max().item(), 0) for row in responses) for n in range(3)]
        )
    assert counts.argmax() == 1
    shares = torch.cat([counts / counts.max(), torch.ones(1)])  # the title is at -1
    for focus in (0.5, 1.0):
        expected = weigh_rows(adapter, 1 - focus * (1 - shares[places.long()]))
        found = focused(adapter, keys, focus)
        for path in adapter.tensors:
            for one, other in zip(found.tensors[path], expected.tensors[path], strict=True):
                torch.testing.assert_close(one, other)


def test_without_sentences_nothing_is_weighed(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path)
    (one,) = made.parametrize([Document("Ann likes tea.", "T")])
    (several,) = made.parametrize([Document("Ann likes tea. Bob likes jam.", "T")])
    (random,) = RandomParametrizer(tiny_base).parametrize(CORPUS[:1])
    (keys,) = question_keys(tiny_base, ["tea"], looking_layers(one))
    for adapter in (one, random, reduce_rank(several, 8)):
        assert focused(adapter, keys, 1.0) is adapter
    assert focused(several, keys, 1.0) is not several
    nothing = {layer: torch.zeros_like(key) for layer, key in keys.items()}
    assert focused(several, nothing, 1.0) is several  # else all would weigh nothing
    assert looking_layers(random) == ()


def test_documents_that_are_not_meant_are_left_out(tiny_base, tmp_path):
    adapters = dict(enumerate(parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:3])))
    adapters[3] = RandomParametrizer(tiny_base).parametrize(CORPUS[:1])[0]
    asked = [about(DOCUMENTS[0]), about(DOCUMENTS[1])]
    hits = [[Hit(number, 1.0) for number in adapters]] * 2
    keys = question_keys(tiny_base, asked, [0])
    others = [relevance(adapters[n], keys[q]) for q in (0, 1) for n in (0, 1, 2) if n != q]
    kept = relevant_hits(tiny_base, asked, hits, adapters, max(others) + 1e-4)
    assert [[hit.document_id for hit in row] for row in kept] == [[0, 3], [1, 3]]
    assert relevant_hits(tiny_base, asked, hits, adapters, -math.inf) == hits


@pytest.mark.parametrize(
    "mode, without", [("parametric", "closed_book"), ("combine", "in_context")]
)
def test_pipeline_answers_as_without_adapters_where_none_is_meant(
    tiny_base, tmp_path, mode, without
):
    made = make_parametrizer("generated", tiny_base)
    rag = ParametricRAG(
        tiny_base, parametrizer=made, store=tmp_path / "store", generation=SHORT
    ).add_documents(CORPUS)
    usual = rag.answer(QUESTIONS, mode, k=2)
    expected = rag.answer(QUESTIONS, without, k=2)
    options = AnswerOptions(least_relevance=math.inf)
    answers = rag.answer(QUESTIONS, mode, k=2, options=options)
    assert texts(answers) == texts(expected) != texts(usual)
    for one, other in zip(answers, usual, strict=True):  # found, but used only where they are read
        read = [replace(source, weight=0.0) for source in other.documents]
        assert other.documents and list(one.documents) == (read if mode == "combine" else [])
    options = AnswerOptions(least_relevance=1e-9)
    assert texts(rag.answer(QUESTIONS, mode, k=2, options=options)) == texts(usual)


def test_focus_makes_an_adapter_a_question(tiny_base, tmp_path):
    document = Document("Ann likes tea. Bob likes jam. Cid likes rye.", "T")
    made = parametrizer(tiny_base, tmp_path)
    rag = ParametricRAG(
        tiny_base, parametrizer=made, store=tmp_path / "store", generation=SHORT,
        options=AnswerOptions(focus=0.5),
    )  # fmt: skip
    rag.add_documents([document])
    asked, hits = ["Ann?", "Bob likes"], [[Hit(document.id, 1.0)]] * 2
    plain = rag.answerer.prepare(asked, hits, "parametric", AnswerOptions())
    assert plain[0].adapter is plain[1].adapter
    prepared = rag.answerer.prepare(asked, hits, "parametric")
    for question, one in zip(asked, prepared, strict=True):
        (keys,) = question_keys(tiny_base, [question], looking_layers(plain[0].adapter))
        expected = focused(rag.adapter(document.id), keys, 0.5)
        for path, (a, b) in one.adapter.tensors.items():
            torch.testing.assert_close(a, expected.tensors[path][0])
            torch.testing.assert_close(b, expected.tensors[path][1])
    path = prepared[0].adapter.spec.paths()[0]
    first, second = (one.adapter.tensors[path][0] for one in prepared)
    assert not torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("focus", [-0.1, 1.1, math.nan])
def test_focus_out_of_range_is_refused(focus):
    with pytest.raises(ValueError, match=r"expected 0 \(off\) to 1"):
        AnswerOptions(focus=focus)


def test_service_leaves_them_out_too(tiny_base, tmp_path):
    for least, attached in ((0.0, True), (math.inf, False)):
        options = AnswerOptions(least_relevance=least)
        with running_service(tiny_base, tmp_path, options=options) as service:
            service.add(CORPUS)
            ready = service.prepare(QUESTIONS[1], "parametric", 2)
            assert (ready.adapter is not None) == attached
            assert len(ready.documents) == 2 * attached
            assert service.prepare(QUESTIONS[1], "closed_book", 2).prompt == ready.prompt


def test_evaluation_leaves_them_out_too(tiny_base, tmp_path):
    rows = tuple(Question(d.id, about(d), ("x",), (d.id,)) for d in DOCUMENTS)
    whole = QuestionSet("set", tuple(DOCUMENTS), rows)
    made = parametrizer(tiny_base, tmp_path)
    adapters = made.parametrize(DOCUMENTS)
    keys = question_keys(tiny_base, [about(d) for d in DOCUMENTS], [0])
    others = [relevance(a, k) for i, a in enumerate(adapters) for j, k in enumerate(keys) if i != j]
    names = ("closed_book", "gold", "shuffled", "gold+2:relative", "gold+2")
    said = {}
    for least in (0.0, max(others) + 1e-4):
        answering = AnswerOptions(least_relevance=least)
        rag = ParametricRAG(
            tiny_base, parametrizer=made, store=tmp_path / f"{least}", generation=SHORT,
            options=answering,
        )  # fmt: skip
        folder = tmp_path / f"answers{least}"
        evaluate(rag, whole, EvaluationOptions(names, retrieval="gold"), folder)
        for name in names:
            records = read_answers(answers_path(folder, name)).values()
            said[bool(least), name] = [record["prediction"] for record in records]
    for name in ("closed_book", "gold"):
        assert said[True, name] == said[False, name]
    assert said[True, "shuffled"] == said[True, "closed_book"] != said[False, "shuffled"]
    for name in ("gold+2:relative", "gold+2"):  # the others are no more
        assert said[True, name] == said[True, "gold"]
