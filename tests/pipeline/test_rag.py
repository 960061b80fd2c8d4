"""The pipeline: documents become adapters once, survive interruptions, and answer in every mode."""

from __future__ import annotations

import gc
from dataclasses import asdict, replace

import pytest

from prag_core.adapters.merge import merge
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.chunking import chunk_documents
from prag_core.corpus.documents import Document
from prag_core.model.generate import generate
from prag_core.model.wordings import Wording, keep_choice
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.modes import MODES
from prag_core.pipeline.rag import ParametricRAG, assemble, choose_path
from prag_core.pipeline.setup import AugmentationOptions, Setup
from tests.fixtures.parametrizers import (
    CORPUS,
    OnePairAugmenter,
    RandomParametrizer,
    make_parametrizer,
)
from tests.fixtures.pipelines import QUESTIONS, SHORT, prompts, texts
from tests.fixtures.stores import damage_record
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def fast(tiny_base, store):
    """A pipeline without documents, with the random parametrizer."""
    return ParametricRAG(
        tiny_base, parametrizer=RandomParametrizer(tiny_base), store=store, generation=SHORT
    )


def test_a_second_call_makes_nothing_again(fast):
    done = []
    fast.add_documents(CORPUS, done.append)
    assert done == [0, 2, 4]
    fast.add_documents([*CORPUS, *CORPUS], done.append)
    assert done == [0, 2, 4, 4]
    assert len(fast.parametrizer.batches) == 2
    fast.add_documents(["A plain text.", "A plain text."], done.append)
    assert done == [0, 2, 4, 4, 0, 1]
    assert len(fast.documents) == len(fast.retriever) == 5


def test_an_interruption_loses_the_batch_in_flight_only(tiny_base, store):
    interrupted = RandomParametrizer(tiny_base, fail_in_batch=2)
    rag = ParametricRAG(tiny_base, parametrizer=interrupted, store=store)
    with pytest.raises(KeyboardInterrupt):
        rag.add_documents(CORPUS)
    assert len(store) == 2
    (kept,) = interrupted.batches
    second = RandomParametrizer(tiny_base)
    rag = ParametricRAG(tiny_base, parametrizer=second, store=store)
    assert set(rag.documents) == set(kept)  # no document without adapter
    sources = {s.document_id for reply in rag.answer(QUESTIONS, k=4) for s in reply.documents}
    assert sources and sources <= set(kept)
    rag.add_documents(CORPUS)
    assert len(store) == 4
    assert sorted(i for batch in second.batches for i in batch) == sorted(
        {d.id for d in CORPUS} - set(kept)
    )


def test_what_another_process_adds_and_removes_is_seen(fast, tiny_base):
    fast.add_documents(CORPUS[:3])
    with AdapterStore(fast.store.path) as opened:
        other = ParametricRAG(
            tiny_base, parametrizer=RandomParametrizer(tiny_base), store=opened, generation=SHORT
        )
        other.remove_documents([CORPUS[0].id])
        other.add_documents(CORPUS[3:])
        expected = other.retrieve(QUESTIONS, k=4)
    assert fast.retrieve(QUESTIONS, k=4) == expected
    assert set(fast.documents) == {document.id for document in CORPUS[1:]}
    assert not fast.refresh()
    fast.add_documents(CORPUS)
    assert not fast.refresh()


def test_what_another_process_adds_to_an_empty_store_is_asked_about_and_named(fast, tiny_base):
    with AdapterStore(fast.store.path) as opened:
        other = ParametricRAG(tiny_base, parametrizer=RandomParametrizer(tiny_base), store=opened)
        other.add_documents(CORPUS[:1])
        assert fast.answer(QUESTIONS[:1])[0].documents
        other.add_documents(CORPUS[1:2])
        named = fast.answer(QUESTIONS[:1], document_ids=[[CORPUS[1].id]])
    assert [hit.document_id for hit in named[0].documents] == [CORPUS[1].id]


def test_a_document_of_the_same_source_id_replaces_the_old_one(fast):
    fast.add_documents(CORPUS)
    new = Document("Mira Voss was born in Oss.", "Mira Voss", "source1")
    fast.add_documents([new], replace=True)
    assert set(fast.documents) == {new.id, *(document.id for document in CORPUS[1:])}
    assert {key.split("-")[0] for key in fast.store} == set(fast.documents)
    assert fast.store.get_record("document", CORPUS[0].id) is None
    fast.add_documents([new], replace=True)
    assert len(fast.documents) == len(fast.retriever) == 4


def test_the_pieces_of_a_document_replace_it_and_it_them(fast, tiny_base):
    whole = Document("One two three four. " * 30, "T", "source9")
    pieces = chunk_documents([whole], tiny_base.tokenizer, 384)
    for documents in ([whole], pieces, [whole]):
        fast.add_documents(documents, replace=True)
        assert set(fast.documents) == {document.id for document in documents}
        assert {key.split("-")[0] for key in fast.store} == set(fast.documents)


def test_changes_begin_with_what_another_process_did(fast, tiny_base):
    fast.add_documents(CORPUS[:2])
    with AdapterStore(fast.store.path) as opened:
        other = ParametricRAG(tiny_base, parametrizer=RandomParametrizer(tiny_base), store=opened)
        other.remove_documents([CORPUS[0].id])
        fast.add_documents(CORPUS[:1])
        assert opened.get_record("document", CORPUS[0].id) is not None
        other.add_documents(CORPUS[2:3], parametrize=False)
        fast.ensure_adapters([CORPUS[2].id])
        other.add_documents(CORPUS[3:])
        fast.remove_documents([CORPUS[3].id])
        other.refresh()
    assert set(fast.documents) == set(other.documents) == {d.id for d in CORPUS[:3]}


def test_metadata_are_taken_over_without_an_id(fast):
    fast.add_documents(CORPUS)
    dated = replace(CORPUS[0], source_id="", metadata={"year": 1902})
    for again in (dated, replace(dated, metadata={})):  # the last one says nothing
        for parametrize in (True, False):
            fast.add_documents([again], parametrize=parametrize, replace=True)
            kept = replace(CORPUS[0], metadata=dated.metadata)
            assert asdict(fast.documents[dated.id]) == asdict(kept)
            assert fast.store.get_record("document", dated.id) == asdict(kept)
    assert len(fast.documents) == 4 and len(fast.parametrizer.batches) == 2


def test_only_documents_with_the_metadata_are_found(fast):
    kinds = [replace(d, metadata={"part": i % 2, "by": "Ada"}) for i, d in enumerate(CORPUS)]
    fast.add_documents(kinds)
    odd = [document.id for document in (CORPUS[1], CORPUS[3])]
    assert fast.matching({"part": 1, "by": "Ada"}) == [i for i in fast.documents if i in odd]
    none, both, other = fast.answer(QUESTIONS, k=4, where={"part": 1})
    assert none.documents == other.documents == ()
    assert sorted(source.document_id for source in both.documents) == sorted(odd)
    with pytest.raises(ValueError, match=r"got where .*, which fits none of 4 documents"):
        fast.answer(QUESTIONS, where={"part": 1, "by": "Bo"})


def test_index_now_and_make_chosen_adapters_later(fast):
    fast.add_documents(CORPUS, parametrize=False)
    assert len(fast.store) == 0
    fast.ensure_adapters([CORPUS[1].id, CORPUS[1].id])
    assert fast.parametrizer.batches == [[CORPUS[1].id]]
    assert fast.answer(["Mill?"], document_ids=[[CORPUS[1].id]])[0].text
    with pytest.raises(ValueError, match="got unknown document ids"):
        fast.ensure_adapters(["none"])


def test_a_failing_store_leaves_the_index_as_it_was(fast, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(fast.store, "put_records", full)
        with pytest.raises(OSError, match="no space"):
            fast.add_documents(CORPUS)
    assert len(fast.documents) == len(fast.retriever) == 0
    assert len(fast.add_documents(CORPUS).documents) == 4


@pytest.mark.parametrize(
    "bad",
    ["", " ", "\u200b\ufeff", None, 5, b"x", {"title": "no text"}, "caf\udce9", Document("x", None),
     Document("x", metadata={"a": {1}})],
)  # fmt: skip
def test_a_batch_with_something_bad_is_refused_before_anything_is_recorded(fast, bad):
    with pytest.raises(ValueError, match=r"^document 2: got "):
        fast.add_documents(["A good text.", bad])
    assert len(fast.store) == len(fast.documents) == len(list(fast.store.records("document"))) == 0


def test_one_text_one_record_or_one_document_is_one_document(fast):
    for one in ("北京是中国的首都。", {"title": "T", "text": "One."}, CORPUS[0]):
        before = len(fast.documents)
        assert len(fast.add_documents(one).documents) == before + 1
    for other in (None, 5, b"x"):
        with pytest.raises(ValueError, match=r"got a \w+, expected documents"):
            fast.add_documents(other)


def test_of_a_document_that_fails_midway_the_others_are_kept(fast, monkeypatch):
    make = fast.parametrizer.parametrize

    def failing(documents):
        if CORPUS[1] in documents:
            raise ValueError("too strange")
        return make(documents)

    monkeypatch.setattr(fast.parametrizer, "parametrize", failing)
    with pytest.raises(ValueError, match=r"got 1 of 4 documents .*Oss: too strange.*others are"):
        fast.add_documents(CORPUS)
    assert set(fast.documents) == {d.id for d in CORPUS} - {CORPUS[1].id}
    assert fast.store.documents_without_adapter() == []


def test_a_document_without_adapter_takes_no_part(fast, caplog):
    fast.add_documents(CORPUS[:3])
    fast.add_documents(CORPUS[3:], parametrize=False)
    ids = {
        source.document_id for reply in fast.answer(QUESTIONS, k=4) for source in reply.documents
    }
    assert ids == {document.id for document in CORPUS[:3]}
    assert "1 of 4 documents have no adapter" in caplog.text
    with pytest.raises(ValueError, match="got no adapter for document"):
        fast.answer(QUESTIONS[:1], document_ids=[[CORPUS[3].id]])


def test_a_damaged_adapter_takes_no_part_until_it_is_made_again(fast, caplog):
    fast.add_documents(CORPUS)

    def used() -> set[str]:
        replies = fast.answer(QUESTIONS, k=4)
        return {source.document_id for reply in replies for source in reply.documents}

    found, bad = used(), CORPUS[0].id
    fast.store.weights_path(key := fast._key(bad)).write_bytes(b"damaged")
    assert bad in found and used() == used() == found - {bad}
    (named,) = [text for text in caplog.messages if "got damaged bytes" in text]
    assert f"prag store delete --path {fast.store.path} --key {key}" in named
    assert fast.without_adapter() == [bad]
    with pytest.raises(ValueError, match="got damaged bytes"):  # a document that is named
        fast.answer(QUESTIONS[:1], document_ids=[[bad]])
    fast.add_documents(CORPUS)
    assert used() == found and fast.store.verify() == []


def test_packs_that_are_gone_leave_the_other_documents(fast, caplog):
    fast.add_documents(CORPUS)
    packed = {key: adapter for key, adapter in fast.store.items() if CORPUS[0].id in key}
    fast.store.put_many(packed, pack=True)
    (pack,) = (fast.store.path / "packs").iterdir()
    pack.unlink()
    replies = fast.answer(QUESTIONS, k=4)
    assert CORPUS[0].id not in {s.document_id for reply in replies for s in reply.documents}
    assert f"got no file {pack}" in caplog.text
    for path in fast.store.path.rglob("adapter_model.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match="got no adapter for document"):  # none is left
        fast.answer(QUESTIONS)


def test_a_damaged_document_record_leaves_the_others(fast, tiny_base, caplog):
    fast.add_documents(CORPUS)
    folder, bad = fast.store.path, CORPUS[0].id
    damage_record(folder, "document", bad)
    with AdapterStore(folder) as opened:
        parametrizer = RandomParametrizer(tiny_base)
        rag = ParametricRAG(tiny_base, parametrizer=parametrizer, store=opened, generation=SHORT)
        assert set(rag.documents) == {document.id for document in CORPUS[1:]}
        assert f"prag store forget --path {folder} --key {bad}" in caplog.text
        assert rag.answer(QUESTIONS)
        fast.add_documents(["Another document of Tarn."])
        assert rag.refresh() and len(rag.documents) == 4  # the others are seen all the same
        opened.put_record("document", "later", {"text": "Oss.", "colour": "red"})
        assert fast.refresh() and "got a document later of the fields text, colour" in caplog.text
        rag.add_documents(CORPUS)  # records it anew; the adapter is there
        assert rag.parametrizer.batches == [] and rag.store.get_record("document", bad) is not None


def test_long_texts_are_counted_once_and_their_chunks_removed_together(fast, tiny_base, caplog):
    long = [Document("One two three four. " * 30, f"T{n}") for n in range(3)]  # a byte a token
    fast.add_documents([*CORPUS, *long])
    assert caplog.text.count("384 tokens") == 1
    assert "3 of 7 documents have more than 384 tokens" in caplog.text
    assert "`chunk_documents`, `prag parametrize --chunk_tokens 384`" in caplog.text
    fast.add_documents(long)  # nothing is made, nothing said
    chunks = chunk_documents(long[:2], tiny_base.tokenizer, 500)
    fast.remove_documents([document.id for document in long])
    fast.add_documents(chunks)
    assert caplog.text.count("384 tokens") == 1
    assert len(fast.store) == len(fast.documents) == len(CORPUS) + len(chunks) > len(CORPUS) + 2
    fast.remove_documents([long[0].id])  # the whole, which is not there itself
    rest = {document.id for document in [*CORPUS, *chunks] if document.title != "T0"}
    assert set(fast.documents) == set(fast.store.record_keys("document")) == rest
    assert len(fast.store) == len(fast.retriever) == len(rest)
    with pytest.raises(ValueError, match="got unknown document ids"):
        fast.remove_documents([long[0].id])


def test_a_field_called_parent_may_hold_anything(fast):
    documents = [Document(f"Text {n}.", metadata={"parent": ["a", {"b": n}]}) for n in range(2)]
    fast.add_documents(documents)
    fast.remove_documents([documents[0].id])
    assert [*fast.documents] == [documents[1].id]


def test_a_corpus_of_its_own_leaves_the_stores_documents_alone(fast, tiny_base):
    fast.add_documents(CORPUS[:2])
    parts = {"parametrizer": RandomParametrizer(tiny_base), "store": fast.store}
    alone = ParametricRAG(tiny_base, **parts, generation=SHORT, documents=())
    alone.add_documents(CORPUS[2:])
    assert {hit.document_id for row in alone.retrieve(QUESTIONS, k=4) for hit in row} == {
        document.id for document in CORPUS[2:]
    }
    assert set(fast.store.record_keys("document")) == {document.id for document in CORPUS[:2]}


def test_a_store_that_cannot_be_written_is_answered_from(fast, tiny_base, monkeypatch):
    fast.add_documents(CORPUS)
    monkeypatch.setattr("prag_core.adapters.store_index.os.access", lambda *_: False)
    parametrizer = RandomParametrizer(tiny_base)
    rag = ParametricRAG(
        tiny_base, parametrizer=parametrizer, store=fast.store.path, generation=SHORT
    )
    assert rag.store.readonly and rag.answer(QUESTIONS, k=2) == fast.answer(QUESTIONS, k=2)
    with pytest.raises(OSError, match="got 1 of 2 documents that have no adapter of these setti"):
        rag.add_documents([CORPUS[0], "A new one."])
    assert parametrizer.batches == []  # nothing is made in vain
    rag.parametrizer = make_parametrizer("trained", tiny_base)
    with pytest.raises(OSError, match="read only and has no adapter of these documents for mode s"):
        rag.train_global()


def test_the_path_is_the_one_that_the_store_has(store, adapter, tiny_base, caplog):
    for paths, expected in (((), "generated"), (("trained",), "trained"), (("generated",),) * 2):
        for path in paths:
            store.put(f"{path}-x", replace(adapter, metadata={"path": path}))
        expected = expected if isinstance(expected, str) else "generated"
        assert choose_path(Setup(), store, tiny_base.fingerprint).path == expected
    assert "paths generated and trained: taking generated" in caplog.text
    assert choose_path(Setup(path="trained"), store, tiny_base.fingerprint).path == "trained"


def test_unknown_id_removes_nothing(fast):
    fast.add_documents(CORPUS)
    with pytest.raises(ValueError, match=r"got unknown document ids \['none'\], expected ids amo"):
        fast.remove_documents([CORPUS[0].id, "none"])
    assert len(fast.store) == len(fast.documents) == len(fast.retriever) == 4


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_answers_every_question(tiny_base, store, mode):
    path = "generated" if mode == "in_context_rows" else "trained"
    made = make_parametrizer(path, tiny_base)
    (reader,) = make_parametrizer("random", tiny_base).parametrize(CORPUS[:1])
    rag = ParametricRAG(tiny_base, parametrizer=made, store=store, generation=SHORT, reader=reader)
    k = 1 if mode == "kv_cache" else 2
    answers = rag.add_documents(CORPUS).answer(QUESTIONS, mode, k=k)
    assert [answer.question for answer in answers] == QUESTIONS
    assert {answer.mode for answer in answers} == {mode}
    counts = [0, 0, 0] if mode in ("closed_book", "sft") else [1, k, 1]
    assert [len(answer.documents) for answer in answers] == counts
    one_by_one = [rag.answer(question, mode, k=k)[0] for question in QUESTIONS]
    assert one_by_one == answers  # a single question may be given as a string


def test_da_rag_and_in_context_show_their_passages(tiny_base):
    rag = ParametricRAG(tiny_base, augmenter=OnePairAugmenter(), generation=SHORT)
    rag.add_documents(CORPUS)  # without store and parametrizer
    ids = [[CORPUS[0].id], [CORPUS[3].id], [CORPUS[2].id]]
    shown = [[CORPUS[0]], [CORPUS[3]], [CORPUS[2]]]
    expected = generate(tiny_base, prompts(tiny_base, shown), None, SHORT)
    assert texts(rag.answer(QUESTIONS, "in_context", document_ids=ids)) == expected
    more = [
        [Document(f"{d.text}\n{d.text.upper()}\nQuestion: What of {d.title}? Answer: {d.text[:9]}")]
        for (d,) in shown
    ]
    more = [[replace(d, title=row[0].title)] for (d,), row in zip(more, shown, strict=True)]
    expected = generate(tiny_base, prompts(tiny_base, more), None, SHORT)
    assert texts(rag.answer(QUESTIONS, "da_rag", document_ids=ids)) == expected


def test_given_documents_replace_the_retrievers(fast):
    fast.add_documents(CORPUS)
    ids = [[CORPUS[1].id], [CORPUS[2].id, CORPUS[0].id], [CORPUS[3].id]]
    answers = fast.answer(QUESTIONS, document_ids=ids)
    assert [[hit.document_id for hit in answer.documents] for answer in answers] == ids
    alone = fast.answer(QUESTIONS[1:2], document_ids=ids[1:2])
    assert alone[0].text == answers[1].text
    twice = [[CORPUS[1].id, CORPUS[2].id, CORPUS[1].id]]
    (hits,) = fast.hits(QUESTIONS[:1], "parametric", 3, twice, [[3.0, 2.0, 1.0]])
    assert [(hit.document_id, hit.score) for hit in hits] == [
        (twice[0][0], 3.0),
        (twice[0][1], 2.0),
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_small_corpora_and_large_k(fast, size):
    fast.add_documents(CORPUS[:size])
    for mode in ("in_context", "parametric", "combine"):
        answers = fast.answer(QUESTIONS, mode, k=10)
        assert [len(answer.documents) for answer in answers] == [1, size - 1, 0]


@pytest.mark.parametrize("mode", [name for name in MODES if name != "sft"])
def test_without_a_match_the_answer_is_that_of_closed_book(tiny_base, store, mode):
    made = make_parametrizer("generated" if mode == "in_context_rows" else "trained", tiny_base)
    rag = ParametricRAG(
        tiny_base,
        parametrizer=made,
        store=store,
        generation=SHORT,
        reader=made.parametrize(CORPUS)[0],
    )
    questions = ["Hello!", "It?", ""]
    answers = rag.add_documents(CORPUS[:1]).answer([*questions, QUESTIONS[0]], mode)[:3]
    assert texts(answers) == texts(rag.answer(questions, "closed_book"))
    assert all(answer.documents == () and answer.path == "" for answer in answers)


def test_a_conversation_is_searched_for_what_it_is_about(fast):
    fast.add_documents(CORPUS)
    turns = [
        {"role": "user", "content": "Who built the bridge of Oss?"},
        {"role": "assistant", "content": "Jan Roth"},
        {"role": "user", "content": "And in which year was that?"},
    ]
    for questions in (turns, [turns]):
        (answer,) = fast.answer(questions, "in_context", k=1)
        assert [source.document_id for source in answer.documents] == [CORPUS[3].id]
    turns[-1] = {"role": "user", "content": "Where was Mira Voss born?"}
    (answer,) = fast.answer([turns], "in_context")
    assert [source.document_id for source in answer.documents] == [CORPUS[0].id]


def test_documents_under_the_ids_of_an_earlier_version_keep_their_adapters(tiny_base, store):
    document = Document("Cafe\u0301 Tarn is open.")
    document.__dict__["id"] = "0" * 32
    fast = ParametricRAG(tiny_base, parametrizer=RandomParametrizer(tiny_base), store=store)
    fast.add_documents([document])
    other = ParametricRAG(tiny_base, parametrizer=RandomParametrizer(tiny_base), store=store)
    assert list(other.documents) == ["0" * 32] and not other.refresh()
    assert other.answer("Café?")[0].documents[0].document_id == "0" * 32


@pytest.mark.parametrize("weighting", ["ones", "mean", "score", "relative"])
def test_merge_weights_reach_the_adapters(fast, tiny_base, weighting):
    fast.add_documents(CORPUS)
    (hits,) = fast.retrieve(QUESTIONS[1:2], k=2)
    total = sum(hit.score for hit in hits)
    weights = {
        "ones": [1, 1],
        "mean": [0.5, 0.5],
        "score": [2 * hit.score / total for hit in hits],
        "relative": [hit.score / hits[0].score for hit in hits],
    }[weighting]
    merged = merge([fast.adapter(hit.document_id) for hit in hits], weights)
    expected = generate(tiny_base, prompts(tiny_base)[1:2], merged, SHORT)
    options = AnswerOptions(merge_weights=weighting)
    (answer,) = fast.answer(QUESTIONS[1:2], k=2, options=options)
    assert answer.text == expected[0]
    assert [source.weight for source in answer.documents] == pytest.approx(weights)
    assert answer.prompt.startswith("short-")


def test_chain_of_thought_keeps_the_conclusion(fast, monkeypatch):
    monkeypatch.setattr(
        "prag_core.pipeline.answerer.generate",
        lambda base, prompts, *_: ["She was. So the answer is Tarn."] * len(prompts),
    )
    # The examples of `cot` are longer than the context of the tiny model, which reads bytes.
    reasoned = Wording("reasoned", conclusion="So the answer is")
    answers = fast.answer(["Where?"], "closed_book", options=AnswerOptions(reasoned))
    assert texts(answers) == ["Tarn"]


def test_many_questions_are_answered_in_order(fast):
    fast.add_documents(CORPUS)
    many = [QUESTIONS[i % 3] for i in range(20)]  # more than are merged at one time
    expected = texts(fast.answer(QUESTIONS))
    assert texts(fast.answer(many)) == [expected[i % 3] for i in range(20)]


def test_sft_follows_the_corpus(tiny_base, store):
    trainer = make_parametrizer("trained", tiny_base)
    rag = ParametricRAG(tiny_base, parametrizer=trainer, store=store, generation=SHORT)
    rag.add_documents(CORPUS[:2], parametrize=False)
    first = rag.train_global()
    assert rag.train_global().to_bytes() == first.to_bytes()
    assert len(store) == 1
    rag.add_documents(CORPUS[2:], parametrize=False)
    rag.answer(QUESTIONS, "sft")
    rag.remove_documents([])
    assert len(store) == 2
    assert rag.train_global().to_bytes() != first.to_bytes()


def test_errors_name_the_remedy(tiny_base, fast):
    with pytest.raises(ValueError, match="got no documents, expected at least one"):
        fast.add_documents([])
    for mode in ("in_context", "parametric"):
        with pytest.raises(ValueError, match="got no documents, expected some: add them first"):
            fast.answer(QUESTIONS, mode)
    fast.add_documents(CORPUS)
    with pytest.raises(ValueError, match="got mode 'rag', expected one of closed_book, in_context"):
        fast.answer(QUESTIONS, "rag")
    with pytest.raises(ValueError, match="got k 0, expected 1 or more"):
        fast.answer(QUESTIONS, k=0)
    for ids in ([[CORPUS[0].id]], [[CORPUS[0].id], [], [CORPUS[0].id]]):
        with pytest.raises(ValueError, match=r"got document ids for . questions, expected one"):
            fast.answer(QUESTIONS, document_ids=ids)
    with pytest.raises(ValueError, match=r"got unknown document ids \['none'\]"):
        fast.answer(["Who?"], document_ids=[["none"]])
    known = CORPUS[0].id
    with pytest.raises(ValueError, match=f"got the id '{known}' by itself, expected a list"):
        fast.answer(["Who?"], document_ids=[known])
    with pytest.raises(ValueError, match=r"got \[2\] scores for \[1\] document ids of the quest"):
        fast.answer(["Who?"], document_ids=[[known]], scores=[[2.0, 1.0]])
    with pytest.raises(ValueError, match="got no documents to choose from, expected some"):
        fast.retrieve(["Who?"], among=[])
    with pytest.raises(ValueError, match="got RandomParametrizer, expected LoraTrainer"):
        fast.answer(QUESTIONS, "sft")
    with pytest.raises(ValueError, match="got no augmenter, expected one for mode da_rag"):
        fast.answer(QUESTIONS, "da_rag")


def test_adapter_modes_need_parametrizer_and_store(tiny_base, store):
    for parts in ({"store": store}, {"parametrizer": RandomParametrizer(tiny_base)}):
        rag = ParametricRAG(tiny_base, **parts)
        rag.add_documents(CORPUS, parametrize=False)
        for mode in ("parametric", "combine", "sft"):
            with pytest.raises(ValueError, match="got no parametrizer or no store, expected both"):
                rag.answer(QUESTIONS, mode)


def test_sft_needs_documents(tiny_base, store):
    rag = ParametricRAG(
        tiny_base, parametrizer=make_parametrizer("trained", tiny_base), store=store
    )
    with pytest.raises(ValueError, match="got no documents to train on"):
        rag.train_global()


def test_named_documents_are_weighed_by_the_scores_given(fast, tiny_base):
    fast.add_documents(CORPUS)
    ids = [document.id for document in CORPUS[:2]]
    found = fast.answer(QUESTIONS[:1], document_ids=[ids], scores=[[4.0, 1.0]])
    merged = merge([fast.adapter(i) for i in ids], [1, 0.25])
    assert texts(found) == generate(tiny_base, prompts(tiny_base)[:1], merged, SHORT)
    assert [hit.score for hit in found[0].documents] == [4.0, 1.0]


def test_what_is_kept_of_a_passage_goes_with_its_document(fast):
    fast.add_documents(CORPUS)
    fast.answer(QUESTIONS, "kv_cache", k=1)
    kept = fast.store.path / "kv"
    named = {path.name.partition("-")[0] for path in kept.iterdir()}
    assert CORPUS[0].id in named and len(named) == 3
    fast.remove_documents([CORPUS[0].id])
    assert {path.name.partition("-")[0] for path in kept.iterdir()} == named - {CORPUS[0].id}
    assert fast.store.verify() == []


def test_mode_reader_needs_its_adapter(fast):
    fast.add_documents(CORPUS)
    with pytest.raises(ValueError, match=r"got no adapter for mode reader, .* --reader"):
        fast.answer(QUESTIONS, "reader")


@pytest.fixture
def assembled(tiny_base, monkeypatch):
    """Lets settings be assembled around the tiny model; the corpora that parametrizers got."""
    corpora = []

    def build(base, setup, store, corpus):
        corpora.append(corpus)
        return RandomParametrizer(base)

    monkeypatch.setattr("prag_core.pipeline.rag.load_base_model", lambda *_: tiny_base)
    monkeypatch.setattr("prag_core.pipeline.rag.build_parametrizer", build)
    return corpora


def test_only_a_file_of_pairs_is_given_the_stores_documents(fast, assembled):
    fast.add_documents(CORPUS)
    for file in ("", "pairs.jsonl"):
        rag = assemble(Setup(augmentation=AugmentationOptions(file=file)), fast.store)
        assert set(rag.documents) == set(fast.documents)
    assert [len(corpus) for corpus in assembled] == [0, len(CORPUS)]


def test_a_temporary_store_goes_with_its_pipeline(assembled):
    rag = ParametricRAG.from_pretrained("tiny").add_documents(CORPUS)
    folder = rag.store.path
    assert (folder / "store.json").exists()
    del rag
    gc.collect()
    assert not folder.exists()


def test_results_are_of_the_reader_and_the_dtype_that_gave_them(fast, tiny_base, tiny_spec):
    before = fast.identity
    assert (before["computed_in"], before["reader"]) == ("torch.float32", None)
    readers = set()
    for seed in range(2):
        fast.reader = random_adapter(tiny_spec, tiny_base, seed)
        readers.add(fast.identity["reader"])
    assert len(readers) == 2 and None not in readers


def test_results_are_of_the_prompt_that_reading_was_chosen(fast, tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    before = fast.identity
    keep_choice(fast.base.fingerprint, {"prompt": "turns"})
    changed = {key for key, value in fast.identity.items() if value != before[key]}
    assert changed == {"reading_prompt"} and fast.identity["reading_prompt"].startswith("turns-")
    prepared = fast.answerer.prepare(["Who?"], [[]], "closed_book")
    assert prepared[0].prompt_id == fast.identity["reading_prompt"]
