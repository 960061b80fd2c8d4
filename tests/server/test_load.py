"""Servers with a full queue, with clients that go away, and with many requests at one time."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai

from prag_core.server.limits import Limits
from tests.fixtures.services import add, ask, hold, message, running_server


def test_full_queue_timeout_and_shutdown(tiny_base, tmp_path):
    limits = Limits(timeout=2)
    options = {"max_rows": 1, "max_queue": 1}
    with (
        running_server(tiny_base, tmp_path, limits, **options) as (address, service),
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        gate = hold(service.engine, service.rag.base)
        body = {"prompt": "P", "max_tokens": 1}
        several = http.post("/v1/completions", json=body | {"n": 2})
        assert "got 2 answers, expected at most 1 for all prompts" in message(several, 400)
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(http.post, "/v1/completions", json=body) for _ in range(4)]
            while sum(reply.done() for reply in replies) < 3:
                time.sleep(0.01)
            time.sleep(2.1)  # the one that waits is now late
            gate.set()
            statuses = sorted(reply.result().status_code for reply in replies)
        assert statuses == [429, 429, 429, 504]
        assert http.post("/v1/completions", json=body).status_code == 200
        service.engine.close(10)
        assert http.get("/readyz").status_code == 503
        assert "shutting down" in message(http.post("/v1/completions", json=body), 503)


def test_a_client_that_goes_away_frees_its_rows(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr("prag_core.model.decoding_rows.end_tokens", lambda base: frozenset())
    limits = Limits(max_tokens=400)
    with running_server(tiny_base, tmp_path, limits) as (address, service):
        service.engine.observe = lambda rows, seconds: time.sleep(0.02)  # 8 seconds an answer
        body = {"prompt": ["P", "P"], "max_tokens": 400, "stream": True}
        with httpx.Client(base_url=address, timeout=60) as http:  # noqa: SIM117
            with http.stream("POST", "/v1/completions", json=body) as reply:
                lines = reply.iter_lines()  # kept: without it the stream is closed
                next(lines)
                until = time.monotonic() + 30
                while service.engine.decoding < 2:
                    assert time.monotonic() < until
                    time.sleep(0.01)
                rows = list(service.engine.batch.rows)
        until = time.monotonic() + 30
        while service.engine.decoding:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert [row.finish for row in rows] == ["", ""]  # given up, not decoded to the end


def test_a_request_sees_its_own_documents_alone(tiny_base, tmp_path):
    """200 concurrent requests over 50 documents, while others are added and removed."""
    with (
        running_server(tiny_base, tmp_path, Limits(default_tokens=8)) as (address, service),
        httpx.Client(base_url=address, timeout=120) as http,
    ):
        ids = [i for start in range(0, 50, 25) for i in add(http, 25, start)]
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        draw, stop, deleted = random.Random(0), threading.Event(), []

        def question(number: int):
            chosen = random.Random(number).sample(range(50), 1 + number % 3)
            asked = f"What is P{chosen[0]}?"
            reply = ask(client, asked, document_ids=[ids[i] for i in chosen])
            return asked, reply.choices[0].message.content

        def disturb() -> None:
            start = 1000
            while not stop.is_set():
                added = add(http, 2, start)
                for identifier in added:
                    assert http.delete(f"/v1/documents/{identifier}").status_code == 200
                    deleted.append(identifier)
                    gone = {"prompt": "P", "document_ids": [identifier]}
                    assert http.post("/v1/completions", json=gone).status_code == 400
                start += 2

        numbers = [draw.randrange(80) for _ in range(200)]
        alone = {number: question(number) for number in sorted(set(numbers))}
        disturber = ThreadPoolExecutor(1).submit(disturb)
        with ThreadPoolExecutor(32) as pool:
            together = list(pool.map(question, numbers))
        stop.set()
        disturber.result(60)
        assert deleted
        assert together == [alone[number] for number in numbers]
        assert len({text for _, text in alone.values()}) > 20  # documents make a difference
        assert service.rag.store.verify() == []
        assert len(service.rag.store) == 50
