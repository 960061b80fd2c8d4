"""The one way from documents to answers: prompts, merges, and what an answer was made from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge
from prag_core.model import prefix
from prag_core.model.generate import generate
from prag_core.model.prompts import Continuation, prompt_ids, question_prompt
from prag_core.model.wordings import DEFAULT, WORDINGS, Wording
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import AnswerOptions, Source
from prag_core.pipeline.modes import MODES, find_mode
from prag_core.pipeline.relevance import question_keys, relevance, relevant_hits
from prag_core.retrieval.retriever import Hit
from tests.fixtures.parametrizers import CORPUS, OnePairAugmenter, make_parametrizer
from tests.fixtures.pipelines import QUESTIONS, SHORT

SENTENCE = WORDINGS["sentence"]
HITS = [
    [Hit(CORPUS[0].id, 4.0), Hit(CORPUS[1].id, 1.0)],
    [Hit(CORPUS[3].id, 2.0)],
    [Hit(CORPUS[0].id, 4.0), Hit(CORPUS[1].id, 1.0)],
]


@pytest.fixture(scope="module")
def adapters(tiny_base):
    made = make_parametrizer("generated", tiny_base).parametrize(CORPUS)
    return {document.id: adapter for document, adapter in zip(CORPUS, made, strict=True)}


@pytest.fixture
def answerer(tiny_base, adapters, tmp_path):
    documents = {document.id: document for document in CORPUS}
    return Answerer(
        tiny_base,
        documents.__getitem__,
        adapters.__getitem__,
        corpus_adapter=lambda: adapters[CORPUS[2].id],
        augmenter=OnePairAugmenter(),
        generation=SHORT,
        reader=lambda: adapters[CORPUS[2].id],
        kept=tmp_path / "kv",
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_takes_what_it_says(answerer, adapters, mode):
    how = find_mode(mode)
    given = [hits[:1] for hits in HITS] if how.kept else HITS
    prepared = answerer.prepare(QUESTIONS, given, mode)
    for question, row, hits in zip(QUESTIONS, prepared, given, strict=True):
        assert (row.prefix is not None) == how.kept
        assert row.question == question and question in row.prompt
        texts = [answerer.document(hit.document_id).text for hit in hits]
        assert all((text in row.prompt) == bool(how.passages) for text in texts)
        assert ("Answer: " in row.prompt) == (how.passages == "augmented")
        assert (row.adapter is not None) == bool(how.adapters)
        assert row.path == ("generated" if how.adapters else "")
        assert row.prompt_id == DEFAULT.id
        weights = [1.0, 0.25][: len(hits)] if how.adapters == "documents" else [None] * len(hits)
        assert [s.weight for s in row.documents] == (weights)
        assert [(s.document_id, s.score) for s in row.documents] == [
            (hit.document_id, hit.score) for hit in hits
        ]


def test_answers_equal_merging_and_generating_by_hand(answerer, adapters, tiny_base):
    answers = answerer.answer(QUESTIONS, HITS, "parametric")
    merged = [
        merge([adapters[h.document_id] for h in row], [h.score / row[0].score for h in row])
        for row in HITS
    ]
    prompts = [question_prompt(tiny_base.tokenizer, question) for question in QUESTIONS]
    assert [a.text for a in answers] == generate(tiny_base, prompts, merged, SHORT)


def test_options_reach_the_merge(answerer, adapters):
    pair = [adapters[hit.document_id] for hit in HITS[0]]
    for options, expected in (
        (AnswerOptions(merge_weights="mean"), merge(pair, [0.5, 0.5])),
        (AnswerOptions(merge_weights="ones", merge_method="concatenate"),
         merge(pair, method="concatenate")),
        (AnswerOptions(merge_weights="ones", rank=8),
         merge([reduce_rank(adapter, 8) for adapter in pair])),
    ):  # fmt: skip
        (prepared,) = answerer.prepare(QUESTIONS[:1], HITS[:1], "parametric", options)
        assert prepared.adapter.to_bytes() == expected.to_bytes()


def test_questions_with_the_same_documents_share_one_merge(answerer):
    first, _, third = answerer.prepare(QUESTIONS, HITS, "parametric")
    assert first.adapter is third.adapter


def test_conversations_and_texts_to_go_on_from(answerer):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    questions = [[*turns, {"role": "user", "content": QUESTIONS[0]}], Continuation("Mira is")]
    rows = answerer.prepare(questions, HITS[:2], "in_context")
    assert [row.question for row in rows] == [QUESTIONS[0], "Mira is"]
    assert [row.prompt_id for row in rows] == ["conversation", "continuation"]
    assert rows[0].prompt.count("Hello") == 1 and rows[1].prompt.endswith("Mira is")


def test_adapters_are_asked_in_the_wording_that_they_were_made_for(answerer, adapters, caplog):
    made_for = {"prompt": WORDINGS["turns"].id}
    changed = {i: replace(a, metadata=a.metadata | made_for) for i, a in adapters.items()}
    other = replace(answerer, adapter=changed.__getitem__)
    for mode, wording in (("parametric", "turns"), ("combine", "turns"), ("in_context", "short")):
        (prepared,) = other.prepare(QUESTIONS[:1], HITS[:1], mode)
        assert prepared.wording is WORDINGS[wording]
        assert prepared.prompt_id == WORDINGS[wording].id
    assert not caplog.records
    (prepared,) = other.prepare(QUESTIONS[:1], HITS[:1], "parametric", AnswerOptions("direct"))
    assert prepared.wording is WORDINGS["direct"]
    assert f"made for the prompts {WORDINGS['turns'].id}, expected direct-" in caplog.text


def test_adapters_of_an_unknown_wording_are_asked_in_the_default_with_a_warning(
    answerer, adapters, caplog
):
    changed = {i: replace(a, metadata={"prompt": "mine-123456"}) for i, a in adapters.items()}
    other = replace(answerer, adapter=changed.__getitem__)
    (prepared,) = other.prepare(QUESTIONS[:1], HITS[:1], "parametric")
    assert prepared.wording is DEFAULT and "prompts mine-123456, expected" in caplog.text


def test_a_wording_of_ones_own_reaches_prompt_and_answer(answerer, monkeypatch):
    mine = Wording("mine", "{passages} Say: {question}", lead="It is", ends=".")
    (prepared,) = answerer.prepare(QUESTIONS[:1], HITS[:1], "closed_book", AnswerOptions(mine))
    assert prepared.prompt.endswith(f" Say: {QUESTIONS[0]}<e><a>It is")
    monkeypatch.setattr("prag_core.pipeline.answerer.generate", lambda *_: [" Tarn. It was."])
    (answer,) = answerer.answer(QUESTIONS[:1], HITS[:1], "closed_book", AnswerOptions(mine))
    assert answer.text == "Tarn" and answer.prompt == mine.id
    for mode in ("closed_book", "parametric"):  # nothing is cut of a text that goes on
        (text,) = answerer.answer([Continuation("It is")], HITS[:1], mode, AnswerOptions(mine))
        assert text.text == "Tarn. It was."


def test_a_conversation_about_no_document_goes_on_as_it_is(answerer):
    turns = [{"role": r, "content": "Hi"} for r in ("user", "assistant", "user")]
    for mode, hits, end in (("closed_book", [[]], "<a>"), ("in_context", HITS[:1], "Answer:")):
        (prepared,) = answerer.prepare([turns], hits, mode)
        assert prepared.prompt.endswith(end)


def test_what_is_missing_is_named(answerer):
    with pytest.raises(ValueError, match="got mode 'rag', expected one of closed_book"):
        answerer.answer(QUESTIONS, HITS, "rag")
    with pytest.raises(ValueError, match="got no augmenter, expected one for mode da_rag"):
        replace(answerer, augmenter=None).answer(QUESTIONS, HITS, "da_rag")
    bare = Answerer(answerer.base, answerer.document, answerer.adapter)
    with pytest.raises(ValueError, match="got no adapter of the whole corpus"):
        bare.answer(QUESTIONS, HITS, "sft")


def test_documents_that_are_not_meant_are_named_only_where_they_are_read(answerer):
    options = AnswerOptions(least_relevance=1e9)
    weightless = tuple(Source(h.document_id, h.score, 0.0) for h in HITS[0])
    for mode, documents in (("parametric", ()), ("combine", weightless)):
        (prepared,) = answerer.prepare(QUESTIONS[:1], HITS[:1], mode, options)
        assert prepared.adapter is None and prepared.path == ""
        assert prepared.documents == documents
    hits = [[HITS[0][0], Hit(CORPUS[1].id, 0.0)]]
    options = AnswerOptions(merge_weights="score")
    (prepared,) = answerer.prepare(QUESTIONS[:1], hits, "parametric", options)
    assert [source.document_id for source in prepared.documents] == [CORPUS[0].id]


@pytest.mark.parametrize("wording", [name for name in WORDINGS if "cot" not in name])  # long
def test_kept_passages_are_read_once_and_answer_as_in_context(answerer, wording, monkeypatch):
    hits, options = [row[:1] for row in HITS], AnswerOptions(prompt=wording)
    read = answerer.answer(QUESTIONS, hits, "in_context", options)
    (first, *_), made = answerer.prepare(QUESTIONS, hits, "kv_cache", options), []
    names = sorted(path.name.partition("-")[0] for path in answerer.kept.iterdir())
    assert names == sorted({row[0].document_id for row in hits})
    # All of the prompt but the question and what stands behind it.
    assert QUESTIONS[0] in answerer.base.tokenizer.decode(
        prompt_ids(answerer.base.tokenizer, first.prompt)[len(first.prefix.ids) :]
    )
    assert CORPUS[0].text in answerer.base.tokenizer.decode(first.prefix.ids)
    assert first.documents[0].bytes == first.prefix.nbytes > 0
    for name in ("read_prefix", "fit_prompt"):  # nor is a prompt written to find it
        monkeypatch.setattr(prefix, name, lambda *_: made.append(1))
    answers = answerer.answer(QUESTIONS, hits, "kv_cache", options)
    assert [replace(a, mode="in_context") for a in answers] == read and not made
    with pytest.raises(AttributeError, match="NoneType"):  # it is read
        replace(answerer, kept=None).answer(QUESTIONS, hits, "kv_cache", options)


def test_a_passage_behind_the_question_is_read_again(answerer):
    options = AnswerOptions(prompt=Wording("back", "{question}\n{passages}"))
    hits = [row[:1] for row in HITS]
    read, kept = (answerer.answer(QUESTIONS, hits, m, options) for m in ("in_context", "kv_cache"))
    assert [answer.text for answer in kept] == [answer.text for answer in read]
    (row, *_) = answerer.prepare(QUESTIONS, hits, "kv_cache", options)
    assert CORPUS[0].text not in answerer.base.tokenizer.decode(row.prefix.ids)


def test_kept_passages_that_the_context_cuts_answer_as_in_context(answerer):
    long = replace(CORPUS[0], text=CORPUS[0].text + " More of it." * 200)
    answerer = replace(answerer, document=lambda i: long)
    questions = [QUESTIONS[0], "Why? " * 40]  # the longer question leaves less room
    hits = [HITS[0][:1]] * 2
    read, kept = (answerer.answer(questions, hits, mode) for mode in ("in_context", "kv_cache"))
    assert [answer.text for answer in kept] == [answer.text for answer in read]
    assert all("in part" in answer.notes[0] for answer in kept)


def test_several_documents_are_not_kept_together(answerer):
    with pytest.raises(ValueError, match=r"got 2 documents .* in mode kv_cache, .* kv_cache@1"):
        answerer.answer(QUESTIONS, HITS, "kv_cache")


@pytest.mark.parametrize("mode", ["in_context", "combine"])
def test_a_gate_shows_the_documents_that_adapters_respond_to(answerer, adapters, tiny_base, mode):
    keys = question_keys(tiny_base, QUESTIONS, adapters[CORPUS[0].id].spec.layers[:1])
    pairs = zip(HITS, keys, strict=True)
    scores = [[relevance(adapters[h.document_id], k) for h in r] for r, k in pairs]
    least = sorted(score for row in scores for score in row)[2]  # two of five are below
    options = AnswerOptions(least_relevance=least, gated=True)
    gated = answerer.prepare(QUESTIONS, HITS, mode, options)
    merged = answerer.prepare(QUESTIONS, HITS, "parametric", options)
    for row, other, hits in zip(gated, merged, HITS, strict=True):
        responding = [source.document_id for source in other.documents]
        assert [source.document_id for source in row.documents] == responding
        for hit in hits:
            shown = answerer.document(hit.document_id).text in row.prompt
            assert shown == (hit.document_id in responding)
    assert sum(len(row.documents) for row in gated) == 3
    usual = answerer.prepare(QUESTIONS, HITS, mode, replace(options, gated=False))
    assert [row.prompt for row in usual] != [row.prompt for row in gated]


def test_a_gate_reads_adapters_and_questions_once(answerer, adapters, monkeypatch):
    read, asked = [], []

    def counted(*given):
        asked.append(given)
        return relevant_hits(*given)

    monkeypatch.setattr("prag_core.pipeline.answerer.relevant_hits", counted)
    counting = replace(answerer, adapter=lambda i: read.append(i) or adapters[i])
    options = AnswerOptions(least_relevance=1e-9, gated=True)
    counting.prepare(QUESTIONS, HITS, "combine", options)
    assert len(asked) == 1 and sorted(read) == sorted({*read})


def test_a_gate_without_a_least_relevance_needs_no_adapters(answerer):
    bare, options = replace(answerer, adapter={}.__getitem__), AnswerOptions(gated=True)
    gated = bare.prepare(QUESTIONS, HITS, "in_context", options)
    usual = bare.prepare(QUESTIONS, HITS, "in_context")
    assert [row.prompt for row in gated] == [row.prompt for row in usual]


def test_the_reader_is_asked_as_it_was_trained(answerer, adapters):
    trained = replace(adapters[CORPUS[2].id], metadata={"path": "reader", "prompt": SENTENCE.id})
    answers = replace(answerer, reader=lambda: trained).prepare(QUESTIONS, HITS, "reader")
    assert {row.prompt_id for row in answers} == {SENTENCE.id}
    assert all(row.prompt.endswith(SENTENCE.lead) and row.path == "reader" for row in answers)
    assert all(CORPUS[0].text in row.prompt for row in (answers[0], answers[2]))
    bare = Answerer(answerer.base, answerer.document, answerer.adapter)
    with pytest.raises(ValueError, match="got no adapter for mode reader"):
        bare.answer(QUESTIONS, HITS, "reader")


@pytest.mark.parametrize(
    "mode", ["in_context", "da_rag", "parametric", "combine", "in_context_rows"]
)
def test_a_question_without_documents_is_answered_by_saying_so(answerer, mode):
    options = AnswerOptions(abstain=True)
    hits = [[], HITS[1]]
    unknown, known = answerer.answer(QUESTIONS[:2], hits, mode, options)
    assert (unknown.text, unknown.documents) == ("I do not know.", ())
    assert unknown.notes == ("abstained: no document matches the question",)
    assert [known] == answerer.answer(QUESTIONS[1:2], HITS[1:2], mode)
    assert answerer.answer(QUESTIONS[:1], [[]], mode)[0].text != unknown.text


@pytest.mark.parametrize(
    ("mode", "gated"),
    [("parametric", False), ("combine", False), ("combine", True), ("in_context", True)],
)
def test_a_question_that_no_adapter_is_meant_for_is_answered_by_saying_so(answerer, mode, gated):
    options = AnswerOptions(abstain=True, least_relevance=1e9, gated=gated)
    (answer,) = answerer.answer(QUESTIONS[:1], HITS[:1], mode, options)
    assert (answer.text, answer.documents, answer.path) == ("I do not know.", (), "")
    assert "no adapter responds" in answer.notes[0] and "(least_relevance)" in answer.notes[0]


@pytest.mark.parametrize("mode", ["closed_book", "sft"])
def test_modes_that_need_no_documents_do_not_abstain(answerer, mode):
    options = AnswerOptions(abstain=True)
    assert answerer.answer(QUESTIONS[:1], [[]], mode, options) == answerer.answer(
        QUESTIONS[:1], [[]], mode
    )


def test_one_question_that_is_too_long_does_not_stop_the_others(answerer):
    questions = [QUESTIONS[0], "Why? " * 200, QUESTIONS[1]]
    answers = answerer.answer(questions, HITS, "in_context")
    alone = answerer.answer([QUESTIONS[0]], HITS[:1], "in_context")
    assert answers[0] == alone[0] and not answers[0].notes
    assert answers[1].text == "" and "expected at most" in answers[1].notes[-1]
    with pytest.raises(ValueError, match=r"got a prompt of \d+ tokens, .* ask a shorter question"):
        answerer.answer(questions[1:2], HITS[:1], "parametric")
    many = 4 * SHORT.batch_size + 1  # more than are merged at one time
    with pytest.raises(ValueError, match=r"got a prompt of \d+ tokens"):
        answerer.answer(questions[1:2] * many, HITS[:1] * many, "closed_book")
    (alone,) = answerer.answer(questions[1:2], HITS[:1], "parametric", strict=False)
    assert alone.text == "" and "expected at most" in alone.notes[-1]


def test_passages_beyond_the_context_are_cut_and_noted(answerer):
    long = replace(CORPUS[0], text=CORPUS[0].text + " More of it." * 200)
    (answer,) = replace(answerer, document=lambda i: long).answer(
        QUESTIONS[:1], HITS[:1], "in_context"
    )
    assert "passages are whole in the prompt" in answer.notes[0]


def test_adapters_of_another_prompt_are_warned_of(answerer, adapters, caplog):
    def other(document_id):
        adapter = adapters[document_id]
        return replace(adapter, metadata={**adapter.metadata, "prompt": "older"})

    replace(answerer, adapter=other).prepare(QUESTIONS[:1], HITS[:1], "parametric")
    assert "got adapters made for the prompts older, expected short-" in caplog.text
    caplog.clear()
    answerer.prepare(QUESTIONS[:1], HITS[:1], "parametric")
    assert not caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge_weights": "related"}, "got merge_weights 'related' and merge_method 'auto'"),
        ({"merge_method": "cat"}, "and merge_method 'cat', expected ones or"),
        ({"rank": -1}, "got rank -1 and least_relevance"),
        ({"least_relevance": math.nan}, "got rank 0 and least_relevance nan"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        AnswerOptions(**options)
