"""Service: documents come and go while questions are answered from them, and survive restarts."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest

from prag_core.adapters.merge import merge
from prag_core.adapters.names import INT8
from prag_core.adapters.store import AdapterStore
from prag_core.augmentation.augmented import AUGMENTATION, CachedAugmenter
from prag_core.corpus.documents import Document
from prag_core.model.decoding_rows import Row
from prag_core.model.generate import generate
from prag_core.model.prompts import Continuation
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.rag import ParametricRAG
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.decoding import GREEDY
from tests.fixtures.parametrizers import OnePairAugmenter, make_parametrizer
from tests.fixtures.services import documents, running_service


@pytest.fixture
def service(tiny_base, tmp_path):
    with running_service(tiny_base, tmp_path / "store") as made:
        yield made


def test_passages_are_gated_without_adapters_attached(tiny_base, tmp_path):
    options = AnswerOptions(gated=True, least_relevance=1e9)
    with running_service(tiny_base, tmp_path / "store", options=options) as service:
        service.add(documents(2))
        ready = service.prepare(asked("What is P1?"), "in_context", 1)
        assert "P1 is 7" not in ready.prompt and not ready.documents
        ready = service.prepare(asked("What is P1?"), "in_context", 1, least_relevance=0.0)
        assert "P1 is 7" in ready.prompt and ready.adapter is None


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def answer(service, text: str, **options) -> str:
    """The text of one request."""
    done, pieces, rows = threading.Event(), [], []

    def build() -> Row:
        ready = service.prepare(asked(text), **{"mode": "parametric", "k": 1} | options)
        rows.append(Row(service.rag.base, ready.prompt, ready.adapter, GREEDY))
        return rows[0]

    def emit(piece, error):
        pieces.append(piece)
        if error or rows[0].finish:
            done.set()

    service.engine.submit(build, emit, 60)
    assert done.wait(60)
    return "".join(pieces).strip()


def wait_for(service, job, status: str = "succeeded"):
    until = time.monotonic() + 60
    while (found := service.jobs.get(job.id)).status != status:
        assert time.monotonic() < until and found.status in ("queued", "running"), found
        time.sleep(0.01)
    return found


def test_a_document_is_answered_from_until_it_is_removed(service):
    first, second = documents(2)
    closed = answer(service, "What is P0?")
    assert service.add([first, second, first]) == [first.id, second.id, first.id]
    ready = service.prepare(asked("What is P0?"), "parametric", 1)
    assert [source.document_id for source in ready.documents] == [first.id]
    assert (ready.documents[0].weight, ready.path) == (1.0, "generated")
    assert ready.adapter.metadata["document_id"] == first.id
    own = answer(service, "What is P0?")
    assert own == generate(service.rag.base, [ready.prompt], [service.adapter(first.id)], GREEDY)[0]
    assert own != closed
    assert service.remove(first.id)
    assert not service.remove(first.id)
    assert service.get(first.id) is None
    assert not list(service.rag.store.keys(first.id))
    with pytest.raises(ValueError, match="got unknown document ids"):
        service.prepare(asked("What is P0?"), "parametric", 1, [first.id])
    assert answer(service, "What is P0?") == closed  # the other document does not match
    service.remove(second.id)
    assert answer(service, "What is P0?") == closed


def test_named_documents_are_merged(service):
    ids = service.add(documents(3))
    ready = service.prepare(asked("Who?"), "parametric", 1, ids[:2], "mean")
    expected = merge([service.adapter(i) for i in ids[:2]], [0.5, 0.5])
    assert ready.adapter.to_bytes() == expected.to_bytes()
    assert [(s.document_id, s.weight) for s in ready.documents] == [(i, 0.5) for i in ids[:2]]


def test_modes_and_conversations(service):
    service.add(documents(2))
    text = documents(1)[0].text
    for mode, has_text, has_adapter in (
        ("closed_book", False, False),
        ("in_context", True, False),
        ("parametric", False, True),
        ("combine", True, True),
    ):
        turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"},
                 {"role": "assistant", "content": "Hi"}, *asked("What is P0?")]  # fmt: skip
        for question in (asked("What is P0?"), turns, Continuation("P0 is")):
            ready = service.prepare(question, mode, 1)
            assert (text in ready.prompt) == has_text
            assert (ready.adapter is not None) == has_adapter
            assert all(turn["content"] in ready.prompt for turn in turns if question is turns)
        assert ready.prompt.endswith("P0 is")


def test_restart_finds_everything(tiny_base, tmp_path):
    ids = []
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(3))
        service.remove(ids[0])
        text = answer(service, "What is P1?")
    with running_service(tiny_base, tmp_path / "s") as service:
        assert sorted(d.id for d, _ in service.list(9)) == sorted(ids[1:])
        assert answer(service, "What is P1?") == text
        assert len(service.rag.store) == 2


def test_documents_without_adapter_get_one_at_the_start(tiny_base, tmp_path):
    """Those that `prag parametrize` put there, with or without adapters of this checkpoint."""
    first, second = documents(2)
    with AdapterStore(tmp_path / "s") as opened:
        made = make_parametrizer("generated", tiny_base)
        rag = ParametricRAG(tiny_base, parametrizer=made, store=opened)
        rag.add_documents([first]).add_documents([second], parametrize=False)
    with running_service(tiny_base, tmp_path / "s") as service:
        entries = [service.get(document.id)[1] for document in (first, second)]
        assert [entry.path for entry in entries] == ["generated"] * 2
        assert entries[0].seconds == 0 < entries[1].created  # the first was there
        assert entries[0].bytes and service.adapter(second.id)


def test_a_document_of_the_same_source_id_replaces_the_old_one(service):
    old, other = Document("Mira is in Oss.", source_id="m"), Document("Bo is here.")
    service.add([old, other], replace=True)
    chunks = [Document(f"Mira is in Tarn {i}.", source_id="m") for i in range(9)]
    ids = service.add(chunks, replace=True)  # of several batches
    assert {d.id for d, _ in service.list(99)} == {other.id, *ids}
    assert not list(service.rag.store.keys(old.id)) and not any(
        key.startswith(old.id) for key in service.cache
    )
    made = service.get(other.id)[1]
    service.add([Document("Bo is here.", source_id="b", metadata={"year": 3})], replace=True)
    document, same = service.get(other.id)
    assert (document.source_id, document.metadata, same) == ("b", {"year": 3}, made)
    assert service.rag.store.get_record("document", other.id)["metadata"] == {"year": 3}


def test_only_documents_with_the_metadata_are_found(service):
    old, new = (Document(f"P is {i}.", metadata={"year": i, "by": "Ada"}) for i in (1, 2))
    service.add([old, new])
    for where, ids in (({"year": 2}, {new.id}), ({"by": "Ada"}, {old.id, new.id})):
        ready = service.prepare(asked("What is P?"), "combine", 9, where=where)
        assert {source.document_id for source in ready.documents} == ids
    among = service.prepare(asked("What is P?"), "combine", 9, among=[old.id], where={"by": "Ada"})
    assert [source.document_id for source in among.documents] == [old.id]
    with pytest.raises(ValueError, match=r"got where \{'year': 3\}, which fits none of 2"):
        service.prepare(asked("What is P?"), "combine", 9, where={"year": 3})


def test_training_swaps_the_adapter_when_it_is_done(service):
    ids = service.add(documents(3))
    generated = {i: service.adapter(i).to_bytes() for i in ids}
    job = wait_for(service, service.train(ids))
    assert job.progress == 1
    for i in ids:
        assert service.get(i)[1].path == "trained"
        assert service.adapter(i).metadata["path"] == "trained"
        assert service.adapter(i).to_bytes() != generated[i]
    assert answer(service, "What is P1?")
    new = service.add(documents(1, start=9))
    merged = service.prepare(asked("Who?"), "parametric", 1, [ids[0], *new]).adapter
    assert set(merged.spec.modules) == {"down_proj"}  # both of the generated kind
    service.remove(ids[0])
    assert not list(service.rag.store.keys(ids[0]))


@pytest.fixture
def two_trainings(tiny_base, tmp_path):
    """A service and its two documents, trained in two ways."""
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(2))
        wait_for(service, service.train(ids[:1]))
    other = LoraTrainingOptions(modules=("up_proj",), max_steps=2)
    with running_service(tiny_base, tmp_path / "s", other) as service:
        wait_for(service, service.train(ids[1:]))
        yield service, ids


def test_documents_of_several_trainings_are_answered_from_generated_adapters(two_trainings):
    service, ids = two_trainings
    for named, path in ((ids[:1], "trained"), (ids[1:], "trained"), (ids, "generated")):
        assert service.prepare(asked("Who?"), "parametric", 1, named).path == path
    with pytest.raises(ValueError, match="merge adapters of one parametrizer"):
        service.prepare(asked("Who?"), "parametric", 1, ids, path="trained")


def test_jobs_are_cancelled_fail_and_go_on_after_a_restart(tiny_base, tmp_path):
    endless = LoraTrainingOptions(max_steps=100_000, documents_per_batch=2)
    with running_service(tiny_base, tmp_path / "s", endless) as service:
        ids = service.add(documents(2))
        first, second = service.train(ids[:1]), service.train(ids)
        while service.jobs.get(first.id).progress == 0:
            time.sleep(0.01)
        assert answer(service, "What is P0?")  # meanwhile
        assert service.jobs.cancel(first.id).status == "cancelled"
        assert service.jobs.cancel("none") is None
        while service.jobs.get(second.id).progress == 0:
            time.sleep(0.01)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert service.jobs.get(first.id).status == "cancelled"
        wait_for(service, second)
        assert {service.get(i)[1].path for i in ids} == {"trained"}
        service._trainer.augmenter.augment = lambda batch: 1 / 0
        failed = wait_for(service, service.train(ids), "failed")
        assert failed.error == "the training failed; the server's log says why"


def test_another_checkpoint_makes_its_own_adapters(tiny_base, tmp_path, monkeypatch):
    """Trained adapters stay; questions over both kinds find a generated one of every document."""
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(3))
        wait_for(service, service.train(ids[:1]))
        keys = {i: service.get(i)[1].key for i in ids}
    monkeypatch.setattr("tests.fixtures.services.make_parametrizer", another_checkpoint)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert service.get(ids[0])[1].key == keys[ids[0]]
        assert all(service.get(i)[1].key != keys[i] for i in ids[1:])
        merged = service.prepare(asked("Who?"), "parametric", 1, ids).adapter
        assert merged.rank


def another_checkpoint(name, base):
    made = make_parametrizer(name, base)
    made.fingerprint = "another"
    return made


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_what_was_cut_short_is_settled_at_the_start(tiny_base, tmp_path, monkeypatch):
    """Neither call was acknowledged: a removal is undone, an addition is done."""
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(2))
        with monkeypatch.context() as patch:  # and then the process is killed
            patch.setattr(AdapterStore, "delete_record", interrupted)
            with pytest.raises(KeyboardInterrupt):
                service.remove(ids[0])
            patch.setattr(AdapterStore, "put_many", interrupted)
            with pytest.raises(KeyboardInterrupt):
                service.add(documents(1, start=5))
    ids = sorted([*ids, documents(1, start=5)[0].id])
    with running_service(tiny_base, tmp_path / "s") as service:
        assert [d.id for d, _ in service.list(9)] == ids
        assert [key.split("-")[0] for key in service.rag.store.keys("")] == ids


def test_what_another_process_does_to_the_store_is_seen(service):
    first, second, third = documents(3)
    service.add([first])
    with AdapterStore(service.rag.store.path) as opened:
        made = make_parametrizer("generated", service.rag.base)
        other = ParametricRAG(service.rag.base, parametrizer=made, store=opened)
        other.add_documents([second])
        other.add_documents([third], parametrize=False)
        other.remove_documents([first.id])
    problems = {document.id: bool(served.problem) for document, served in service.list(9)}
    assert problems == {second.id: False, third.id: True}
    assert service.get(first.id) is None
    prepared = service.prepare(asked("What are P0, P1 and P2?"), "parametric", 3)
    assert [hit.document_id for hit in prepared.documents] == [second.id]
    assert prepared.adapter is not None


def test_a_document_removed_while_it_is_trained_stays_removed(service):
    ids = service.add(documents(2))
    job = service.train(ids)
    service.remove(ids[0])
    wait_for(service, job)
    assert service.get(ids[0]) is None
    assert service.get(ids[1])[1].path == "trained"
    assert not list(service.rag.store.keys(ids[0]))


def test_memory_holds_no_more_adapters_than_the_budget(tiny_base, tmp_path):
    with running_service(tiny_base, tmp_path / "s", cache_bytes=40_000) as service:
        ids = service.add(documents(8))
        before = [service.adapter(i).to_bytes() for i in ids]
        assert 0 < service.cache.currsize <= 40_000
        assert len(service.cache) < 8
        assert [service.adapter(i).to_bytes() for i in ids] == before


def test_what_cannot_be_added_changes_nothing(service, monkeypatch):
    service.add(documents(1))
    with pytest.raises(ValueError, match="got an empty document"):
        service.add([*documents(2, start=5), Document("  ", "blank")])

    def full(*_):
        raise OSError(28, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(AdapterStore, "put_many", full)
        with pytest.raises(OSError, match="no room"):
            service.add(documents(1, start=7))
    assert len(service.list(99)) == len(service.rag.documents) == 1
    assert service.add(documents(1, start=7))
    assert service.remove(documents(1, start=7)[0].id)
    assert answer(service, "What is P1?")


@pytest.mark.parametrize("failing", ["store", "index"])
def test_an_addition_that_fails_leaves_nothing_but_the_chunks_that_were_there(
    service, monkeypatch, failing
):
    whole = documents(1)[0]
    chunks = [Document(f"Part {i}.", metadata={"parent": whole.id}) for i in range(2)]
    ids, store = sorted(service.add(chunks)), service.rag.store
    place = (AdapterStore, "put_many") if failing == "store" else (service.rag.retriever, "add")
    with monkeypatch.context() as patch:
        patch.setattr(*place, Mock(side_effect=OSError(28, "no room")))
        with pytest.raises(OSError, match="no room"):
            service.add([whole])
    assert [document.id for document, _ in service.list(9)] == ids
    assert sorted(store.record_keys("document")) == ids
    assert {key.partition("-")[0] for key in store} == set(ids)
    assert service.add([whole]) == [whole.id]


def test_a_trained_adapter_alone_takes_no_place_beside_generated_ones(service):
    ids = service.add(documents(2))
    wait_for(service, service.train(ids[:1]))
    service.rag.store.delete(service._key(ids[0]))
    assert service.prepare(asked("What is P0?"), "parametric", 1).path == "trained"
    both = asked("What are P0 and P1?")
    ready = service.prepare(both, "parametric", 2)
    assert [source.document_id for source in ready.documents] == ids[1:]
    assert ready.path == "generated"
    for path in (None, "generated"):
        with pytest.raises(ValueError, match=r"no generated adapter \(a trained one alone"):
            service.prepare(both, "parametric", 2, ids, path=path)


def test_of_several_trainings_alone_the_best_hits_is_answered_from(two_trainings):
    service, ids = two_trainings
    for document_id in ids:
        service.rag.store.delete(service._key(document_id))
    for first in (0, 1):
        question = asked(f"What is P{first}, P{first} beside P{1 - first}?")
        ready = service.prepare(question, "parametric", 2)
        assert [source.document_id for source in ready.documents] == [ids[first]]
        assert ready.path == "trained"


def other_settings(base):
    made = make_parametrizer("generated", base)
    made.spec = replace(made.spec, dtype=INT8)
    return made


def test_a_start_says_that_it_makes_adapters_of_other_settings(
    tiny_base, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("prag_core.server.service.TELL_EVERY", 0)
    caplog.set_level("INFO")
    for _ in range(2):  # nothing is said of a store that has all
        with running_service(tiny_base, tmp_path / "s") as service:
            service.add(documents(3))
        assert "adapter of these settings" not in caplog.text
    with running_service(tiny_base, tmp_path / "s", parametrizer=other_settings(tiny_base)):
        pass
    text = r"3 of 3 documents .* these settings \(the store has others: rank \d+ in float32\): "
    assert re.search(text + ".*--hypernet_dtype that made them", caplog.text)
    assert "2 of 3 documents done" in caplog.text


def test_a_start_on_a_store_that_is_read_only_makes_nothing(
    tiny_base, tmp_path, monkeypatch, caplog
):
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(2))
    opened, made = partial(AdapterStore, readonly=True), other_settings(tiny_base)
    monkeypatch.setattr("tests.fixtures.services.AdapterStore", opened)
    made.parametrize = Mock()
    with running_service(tiny_base, tmp_path / "s", parametrizer=made) as service:
        assert "the store is read only" in service.get(ids[0])[1].problem
        assert not service.prepare(asked("What is P0?"), "parametric", 1).documents
    assert not made.parametrize.called
    assert caplog.text.count("the store is read only") == 1


def test_of_a_document_removed_while_a_stopped_job_writes_about_it_nothing_stays(
    service, monkeypatch
):
    begun, gate, augment = threading.Event(), threading.Event(), OnePairAugmenter.augment

    def slow(self, batch):
        begun.set()
        assert gate.wait(30)
        return augment(self, batch)

    monkeypatch.setattr(OnePairAugmenter, "augment", slow)
    store, service._trainer = service.rag.store, service._make_trainer()
    service._trainer.augmenter = CachedAugmenter(OnePairAugmenter(), store)
    first, second = service.add(documents(2))
    job = service.train([first, second])
    assert begun.wait(30)
    assert service.remove(first)
    service.jobs.cancel(job.id)
    gate.set()
    service.jobs.close(30)
    kept = list(store.record_keys(AUGMENTATION))
    assert kept and all(key.startswith(second) for key in kept)


def test_a_job_of_documents_that_are_gone_forgets_what_was_written_about_them(service):
    (first,) = service.add(documents(1))
    service.remove(first)
    service.rag.store.put_record(AUGMENTATION, f"{first}-x", {})  # of a process that was killed
    wait_for(service, service.train([first]))
    assert not list(service.rag.store.record_keys(AUGMENTATION))
