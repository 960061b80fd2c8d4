"""Servers that go on: over one store with others, with documents that have no adapter."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from unittest.mock import Mock

import httpx
import pytest

from hypernet.generation.parametrizer import HypernetParametrizer
from prag_core.adapters.names import INT8
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.rag import ParametricRAG
from prag_core.server.jobs import Jobs
from prag_core.training.options import LoraTrainingOptions
from tests.fixtures.parametrizers import OnePairAugmenter, make_parametrizer
from tests.fixtures.services import documents, message, running_server, running_service
from tests.fixtures.stores import damage_record

BAD = Document("P0 is unspeakable.", "P0 bad")


def ids_of(service, text: str, k: int = 1, mode: str = "parametric", **options) -> list[str]:
    prepared = service.prepare([{"role": "user", "content": text}], mode, k, **options)
    return [source.document_id for source in prepared.documents]


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def picky(monkeypatch):
    """Let the parametrizer refuse one document."""
    make = HypernetParametrizer.parametrize

    def parametrize(self, batch):
        if any(document.id == BAD.id for document in batch):
            raise ValueError("got activations that are not finite, expected numbers")
        return make(self, batch)

    monkeypatch.setattr(HypernetParametrizer, "parametrize", parametrize)


@pytest.fixture
def pair(tiny_base, tmp_path):
    """Two services over one store."""
    with (
        running_service(tiny_base, tmp_path / "s") as first,
        running_service(tiny_base, tmp_path / "s") as second,
    ):
        yield first, second


def record(tiny_base, folder, *new: Document) -> None:
    """Keep documents without adapters."""
    with AdapterStore(folder) as opened:
        made = make_parametrizer("generated", tiny_base)
        rag = ParametricRAG(tiny_base, parametrizer=made, store=opened)
        rag.add_documents(new, parametrize=False)


def test_a_document_without_adapter_blocks_neither_start_nor_others(
    tiny_base, tmp_path, picky, caplog
):
    good = documents(3)
    record(tiny_base, tmp_path / "s", BAD, *good)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert "P0 bad: got activations that are not finite" in caplog.text
        problems = {document.id: served.problem for document, served in service.list(9)}
        assert "not finite" in problems.pop(BAD.id) and not any(problems.values())
        assert ids_of(service, "P0 bad is unspeakable", 1) == [good[0].id]  # no place is taken
        assert ids_of(service, "P0 bad is unspeakable", 1, "in_context") == [BAD.id]
        with pytest.raises(ValueError, match=r"which has no adapter .*not finite"):
            ids_of(service, "P0", document_ids=[BAD.id])
        with pytest.raises(ValueError, match=r"got 1 of 2 documents .*the others are there"):
            service.add([BAD, new := documents(1, 7)[0]])
        assert service.get(new.id) and ids_of(service, "What is P7?") == [new.id]
        assert service.remove(BAD.id) and service.get(BAD.id) is None


def test_a_request_that_takes_the_gate_off_reads_documents_without_adapter(
    tiny_base, tmp_path, picky
):
    record(tiny_base, tmp_path / "s", BAD, *documents(1))
    options, text = AnswerOptions(gated=True, least_relevance=1e9), "P0 bad is unspeakable"
    with running_service(tiny_base, tmp_path / "s", options=options) as service:
        assert ids_of(service, text, 1, "in_context", least_relevance=0.0) == [BAD.id]


def test_a_store_of_bad_documents_alone_answers_without(tiny_base, tmp_path, picky):
    record(tiny_base, tmp_path / "s", BAD)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert ids_of(service, "P0 bad") == []


def test_an_adapter_that_cannot_be_read_takes_no_part(tiny_base, tmp_path):
    with running_server(tiny_base, tmp_path / "s") as (address, service):
        first, second = documents(2)
        service.add([first])
        (row,) = service.rag.store.rows(first.id)
        service.add([second])
        for path in (service.rag.store.path / row.place).iterdir():
            path.write_bytes(b"damaged")
        assert ids_of(service, "What is P0? And P1?", 1) == [second.id]
        assert ids_of(service, "What is P0?") == []
        with httpx.Client(base_url=address, timeout=60) as http:
            shown = http.get(f"/v1/documents/{first.id}").json()
            assert "cannot be read" in shown["problem"]
            assert "cannot be read" in message(http.get(f"/v1/documents/{first.id}/adapter"), 409)
            added = http.post("/v1/documents", json={"text": first.text, "title": first.title})
        assert "problem" not in added.json()["data"][0]  # made again
        assert ids_of(service, "What is P0?") == [first.id]


def test_an_adapter_that_may_not_be_read_takes_no_part(tiny_base, tmp_path, monkeypatch):
    with running_service(tiny_base, tmp_path / "s") as service:
        service.add(documents(1))
        error = PermissionError(errno.EACCES, "no permission")
        monkeypatch.setattr(service.rag.store, "get", Mock(side_effect=error))
        assert ids_of(service, "What is P0?") == []


def test_a_place_that_does_not_answer_damages_nothing(tiny_base, tmp_path, monkeypatch):
    with running_service(tiny_base, tmp_path / "s") as service:
        (first,) = service.add(documents(1))
        with monkeypatch.context() as patched:
            error = OSError(errno.ETIMEDOUT, "no answer")
            patched.setattr(service.rag.store, "get", Mock(side_effect=error))
            with pytest.raises(OSError, match="no answer"):
                ids_of(service, "What is P0?")
        assert ids_of(service, "What is P0?") == [first]


def test_a_generated_adapter_is_made_again_beside_a_trained_one(tiny_base, tmp_path):
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(2))
        job = service.train(ids[:1])
        until(lambda: service.jobs.get(job.id).status == "succeeded")
        service.rag.store.delete(service._key(ids[0]))
        service.add(documents(1))
        assert service.get(ids[0])[1].path == "trained"
        assert set(ids_of(service, "What are P0 and P1?", 2)) == set(ids)


def test_damaged_records_block_neither_start_nor_others(tiny_base, tmp_path, caplog):
    first, second = documents(2)
    with running_service(tiny_base, tmp_path / "s") as service:
        service.add([first, second])
        job = service.train([second.id])
        until(lambda: service.jobs.get(job.id).status == "succeeded")
    damage_record(tmp_path / "s", "document", first.id)
    damage_record(tmp_path / "s", "job", job.id)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert f"prag store forget --path {tmp_path / 's'} --key {first.id}" in caplog.text
        assert [document.id for document, _ in service.list(9)] == [second.id]
        assert ids_of(service, "What is P1?") == [second.id]
        assert service.jobs.all() == [] and service.jobs.get(job.id) is None
        service.add([first])
        assert ids_of(service, "What is P0?") == [first.id]


def test_job_records_of_another_version_block_nothing(tiny_base, tmp_path):
    with running_service(tiny_base, tmp_path / "s") as service:
        job = service.train(service.add(documents(1)))
        until(lambda: service.jobs.get(job.id).status == "succeeded")
    with AdapterStore(tmp_path / "s") as opened:
        opened.put_record("job", job.id, opened.get_record("job", job.id) | {"priority": 3})
        opened.put_record("job", "older", {"status": "queued"})
    with running_service(tiny_base, tmp_path / "s") as service:
        assert service.jobs.get(job.id).status == "succeeded"
        assert [job.id for job in service.jobs.all()] == [job.id]
        assert service.jobs.get("older") is None


def test_a_training_goes_on_without_the_document_that_fails(tiny_base, tmp_path):
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(3))
        trainer = service._make_trainer()
        augment = trainer.augmenter.augment

        def picky_augment(batch):
            if any(document.id == ids[1] for document in batch):
                raise ValueError("got a text without questions")
            return augment(batch)

        trainer.augmenter.augment = picky_augment
        service._trainer = trainer
        job = service.train(ids)
        until(lambda: service.jobs.get(job.id).status not in ("queued", "running"))
        job = service.jobs.get(job.id)
        assert (job.status, job.progress) == ("succeeded", 1)
        assert ids[1] in job.error and "without questions" in job.error
        assert [service.get(i)[1].path for i in ids] == ["trained", "generated", "trained"]
        job = service.train([ids[1]])
        until(lambda: service.jobs.get(job.id).status == "failed")


def test_what_one_server_does_the_other_knows(pair):
    first, second = pair
    a, b = first.add(documents(2))
    assert ids_of(second, "What is P0?") == [a]
    kept = second.adapter(a)
    for service, ids in ((first, [a]), (second, [b])):  # the first one trains, then the second
        job = service.train(ids)
        until(lambda s=service, j=job: s.jobs.get(j.id).status == "succeeded")
    assert second.adapter(a).to_bytes() == first.adapter(a).to_bytes() != kept.to_bytes()
    again = second.train([a])  # under the same key: no copy in memory is answered from
    until(lambda: second.jobs.get(again.id).status == "succeeded")
    key = first.get(a)[1].key
    changed = dataclasses.replace(first.adapter(a), metadata={"path": "trained", "by": "second"})
    second.rag.store.put(key, changed)
    assert first.adapter(a).metadata["by"] == "second"
    renamed = dataclasses.replace(documents(1)[0], source_id="p", metadata={"year": 3})
    second.add([renamed], replace=True)
    assert first.get(a)[0] == renamed
    assert ids_of(first, "What is P0?", where={"year": 3}) == [a]
    assert second.remove(a)
    assert first.get(a) is None and ids_of(first, "What is P0?") == []
    assert [document.id for document, _ in first.list(9)] == [b]
    with pytest.raises(ValueError, match="unknown document ids"):
        ids_of(first, "What is P0?", document_ids=[a])
    assert first.add(documents(1)) == [a]  # and it comes back
    assert ids_of(second, "What is P0?") == [a]


def test_a_document_that_another_server_removes_while_it_is_trained_stays_removed(pair):
    first, second = pair
    a, b = first.add(documents(2))
    trainer, gate, begun = first._make_trainer(), threading.Event(), threading.Event()
    augment = trainer.augmenter.augment

    def slow(batch):
        begun.set()
        assert gate.wait(30)
        return augment(batch)

    trainer.augmenter.augment, first._trainer = slow, trainer
    job = first.train([a, b])
    assert begun.wait(30)
    assert second.remove(a)
    gate.set()
    until(lambda: second.jobs.get(job.id).status == "succeeded")
    assert first.get(a) is None and not list(first.rag.store.keys(a))
    assert first.get(b)[1].path == "trained"


def test_each_server_runs_its_own_jobs(tiny_base, tmp_path):
    endless = LoraTrainingOptions(max_steps=100_000, documents_per_batch=2)
    with running_service(tiny_base, tmp_path / "s", endless) as first:
        job = first.train(first.add(documents(1)))
        until(lambda: first.jobs.get(job.id).progress)
        with running_service(tiny_base, tmp_path / "s", endless) as second:
            assert second.jobs.get(job.id).status == "running"
            assert [shown.id for shown in second.jobs.all()] == [job.id]
            time.sleep(0.05)
            assert first.jobs.get(job.id).attempts == 1  # not queued again
            second.jobs.cancel(job.id)
            until(lambda: first.jobs.get(job.id).status == "cancelled")
        job = first.train(job.document_ids)
        until(lambda: first.jobs.get(job.id).progress)
    with running_service(tiny_base, tmp_path / "s") as third:  # the first has ended
        until(lambda: third.jobs.get(job.id).status == "succeeded")
        assert third.jobs.get(job.id).attempts == 1


def test_orderly_ends_are_no_attempts(tiny_base, tmp_path):
    endless = LoraTrainingOptions(max_steps=100_000, documents_per_batch=2)
    job = None
    for _ in range(4):
        with running_service(tiny_base, tmp_path / "s", endless) as service:
            job = job or service.train(service.add(documents(1)))
            until(lambda s=service, j=job: s.jobs.get(j.id).progress)
    with running_service(tiny_base, tmp_path / "s") as service:
        until(lambda: service.jobs.get(job.id).status == "succeeded")
        assert service.jobs.get(job.id).attempts == 1
    with AdapterStore(tmp_path / "s") as opened:  # as a server that is killed leaves it
        killed = opened.get_record("job", job.id) | {"status": "running", "attempts": 3}
        opened.put_record("job", job.id, killed)
    with running_service(tiny_base, tmp_path / "s") as service:
        assert service.jobs.get(job.id).error == "the server ended 3 times while it ran"


def test_an_orderly_end_does_not_wait_for_a_long_step(tiny_base, tmp_path):
    begun, gate = threading.Event(), threading.Event()

    def train(ids, since):
        begun.set()
        assert gate.wait(30)
        yield 1.0
        return {}

    with AdapterStore(tmp_path / "s") as store:
        jobs = Jobs(store, train)
        job = jobs.add(("a",))
        assert begun.wait(30)
        jobs.close(0.01)
        record = store.get_record("job", job.id)
        assert (record["status"], record["attempts"]) == ("queued", 0)
        gate.set()
        jobs._thread.join()
        assert store.get_record("job", job.id) == record


def test_a_restart_trains_what_is_left(tiny_base, tmp_path, monkeypatch):
    batches, augment = [], OnePairAugmenter.augment

    def slow(self, batch):
        batches.append([document.id for document in batch])
        if len(batches) == 2:  # the first one is kept, this one is cut short
            until(lambda: service.jobs._closing)
        return augment(self, batch)

    monkeypatch.setattr(OnePairAugmenter, "augment", slow)
    with running_service(tiny_base, tmp_path / "s") as service:
        ids = service.add(documents(4))
        with monkeypatch.context() as patch:  # adapters of the job's own second are made again
            patch.setattr("prag_core.server.jobs.time", Mock(time=lambda: time.time() - 9))
            job = service.train(ids)
        until(lambda: len(batches) == 2)
    with running_service(tiny_base, tmp_path / "s") as service:
        until(lambda: service.jobs.get(job.id).status == "succeeded")
        assert batches == [ids[:2], ids[2:], ids[2:]]
        assert {service.get(i)[1].path for i in ids} == {"trained"}
        again = service.train(ids)
        until(lambda: service.jobs.get(again.id).status == "succeeded")
        assert batches[3:] == [ids[:2], ids[2:]]


def test_a_job_that_another_server_cancels_in_the_queue_never_starts(tiny_base, tmp_path):
    endless = LoraTrainingOptions(max_steps=100_000, documents_per_batch=2)
    with running_service(tiny_base, tmp_path / "s", endless) as first:
        ids = first.add(documents(2))
        running, queued = first.train(ids[:1]), first.train(ids[1:])
        until(lambda: first.jobs.get(running.id).progress)
        with running_service(tiny_base, tmp_path / "s", endless) as second:
            assert second.jobs.cancel(queued.id).status == "cancelled"
            second.jobs.cancel(running.id)
            until(lambda: first.jobs.get(running.id).status == "cancelled")
            until(lambda: first.jobs.get(queued.id).status == "cancelled")
            assert first.jobs.get(queued.id).attempts == 0


def test_a_sweep_beside_a_server_loses_nothing(tiny_base, tmp_path):
    packing = make_parametrizer("generated", tiny_base)
    packing.spec = dataclasses.replace(packing.spec, dtype=INT8)  # each call makes a small pack
    with (
        running_service(tiny_base, tmp_path / "s", parametrizer=packing) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        stop, store = threading.Event(), service.rag.store

        def sweep() -> None:
            with AdapterStore(tmp_path / "s") as opened:
                while not stop.is_set():
                    opened.sweep()

        sweeping = pool.submit(sweep)
        try:
            for start in range(0, 24, 4):
                ids = service.add(documents(4, start))
                service.remove(ids[0])
                for i in ids[1:]:
                    assert ids_of(service, "Who?", document_ids=[i]) == [i]
        finally:
            stop.set()
        sweeping.result(60)
        assert store.sweep(grace=0) > 0  # nobody else writes any more
        assert store.verify() == [] and len(store) == len(service.list(99)) == 18
        for document, served in service.list(99):
            assert store.get(served.key).metadata["document_id"] == document.id
        assert not any(served.problem for _, served in service.list(99))


def test_parents_long_texts_and_retry_after(tiny_base, tmp_path):
    with (
        running_server(tiny_base, tmp_path / "s") as (address, service),
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        chunks = [Document(f"Part {i}.", "Whole", metadata={"parent": "whole"}) for i in range(2)]
        service.add(chunks)
        assert http.delete("/v1/documents/whole").json()["deleted"]
        assert service.list(9) == []
        assert http.delete("/v1/documents/whole").status_code == 404
        most = service.rag.parametrizer.max_tokens
        texts = ["Short.", "word " * (2 * most)]
        reply = http.post("/v1/documents", json={"documents": [{"text": t} for t in texts]}).json()
        (entry,) = reply["notes"]
        assert f"expected at most {most}" in entry["note"]
        assert entry["id"] == reply["data"][1]["id"]
        service.engine.close(10)
        reply = http.post("/v1/completions", json={"prompt": "P"})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


SERVER = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.fixtures.services import running_server
from tests.fixtures.tiny import tiny_model
with running_server(tiny_model(), Path(sys.argv[1])) as (address, _):
    print(address, flush=True)
    sys.stdin.read()
"""


def test_two_processes_answer_from_one_store(tiny_base, tmp_path):
    command = [sys.executable, "-c", SERVER, str(tmp_path / "s")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        other = stack.enter_context(subprocess.Popen(command, **pipes))
        stack.callback(other.stdin.close)
        here, _ = stack.enter_context(running_server(tiny_base, tmp_path / "s"))
        first, second = (
            stack.enter_context(httpx.Client(base_url=address, timeout=60))
            for address in (here, other.stdout.readline().strip())
        )

        def named(http) -> list[str]:
            body = {"messages": [{"role": "user", "content": "What is P0?"}], "max_tokens": 1}
            reply = http.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            return [source["id"] for source in reply.json()["documents"]]

        text = {"title": "P0", "text": documents(1)[0].text}
        (added,) = first.post("/v1/documents", json=text).json()["data"]
        assert named(first) == named(second) == [added["id"]]
        again = {**text, "id": "mine", "metadata": {"year": 3}}
        assert second.post("/v1/documents", json=again).status_code == 201
        shown = first.get(f"/v1/documents/{added['id']}").json()
        assert (shown["source_id"], shown["metadata"]) == ("mine", {"year": 3})
        assert second.delete(f"/v1/documents/{added['id']}").status_code == 200
        assert first.get(f"/v1/documents/{added['id']}").status_code == 404
        assert named(first) == named(second) == []
