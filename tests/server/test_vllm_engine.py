"""The server in front of a vLLM: answers are those of our own engine, errors are in words."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import pytest

from prag_core import cli
from prag_core.adapters.store import AdapterStore
from prag_core.model.base_model import share_weights
from prag_core.server.vllm_engine import VllmEngine
from tests.fixtures.services import add, message, running_server
from tests.fixtures.vllm_standin import vllm_standin


@pytest.fixture(scope="module")
def front(tiny_base, tmp_path_factory):
    """A server whose rows a stand-in decodes, and one of our own engine, on one store."""
    folder = tmp_path_factory.mktemp("front") / "store"
    with (
        AdapterStore(folder) as store,
        vllm_standin(share_weights(tiny_base), store, max_rank=128) as standin,
        running_server(tiny_base, folder, engine=VllmEngine(standin.url)) as (url, service),
        running_server(tiny_base, folder) as (own_url, _),
        httpx.Client(base_url=url, timeout=60) as http,
        httpx.Client(base_url=own_url, timeout=60) as own,
    ):
        standin.ids = add(http, 4)
        standin.http, standin.own, standin.service = http, own, service
        yield standin


def chat(http, text="What is P1?", status=200, **fields):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, **fields}
    reply = http.post("/v1/chat/completions", json=body)
    return reply.json() if status == 200 and reply.status_code == 200 else message(reply, status)


@contextmanager
def asked_at(front, url: str):
    """Another address in the place of the stand-in's."""
    client = front.service.engine.http
    before, client.base_url = client.base_url, url
    try:
        yield
    finally:
        client.base_url = before


def told(reply) -> list:
    """What a client reads of a reply."""
    choices = [(c.get("text") or c["message"]["content"], c["finish_reason"])
               for c in reply["choices"]]  # fmt: skip
    return [choices, reply["usage"], reply["documents"], reply["mode"], reply["prompt_id"]]


@pytest.mark.parametrize(("count", "fields"), [
    (0, {}), (1, {}), (3, {}), (3, {"merge_weights": "mean"}), (2, {"mode": "combine"}),
    (2, {"mode": "in_context"}), (0, {"mode": "closed_book"}), (1, {"max_tokens": 1}),
    (1, {"stop": ["a", "e", "1", "*"]}), (1, {"n": 2}),
])  # fmt: skip
def test_answers_are_those_of_our_own_engine(front, count, fields):
    if count:  # else those that the retriever finds
        fields |= {"document_ids": front.ids[:count]}
    assert told(chat(front.http, **fields)) == told(chat(front.own, **fields))
    sent = front.asked[-1]
    plain = fields.get("mode") in ("in_context", "closed_book")
    assert sent["model"].startswith("served" if plain else "prag:")
    assert sent["model"].count("+") == (0 if plain or not count else count - 1)
    assert sent["model"].endswith("@0.3333,0.3333,0.3333") == (
        fields.get("merge_weights") == "mean"
    )


def test_texts_go_on_and_streams_stream(front):
    body = {"prompt": ["P1 is", [5, 6, 7]], "max_tokens": 6}
    replies = [http.post("/v1/completions", json=body).json() for http in (front.http, front.own)]
    assert told(replies[0]) == told(replies[1])
    body = {"prompt": "P1 is", "max_tokens": 6, "stream": True}
    events = [
        [line for line in http.post("/v1/completions", json=body).text.splitlines()
         if line.startswith('data: {"')]
        for http in (front.http, front.own)
    ]  # fmt: skip
    texts = ["".join(e.split('"text": "')[1].split('"')[0] for e in es) for es in events]
    assert texts[0] == texts[1] and len(events[0]) == len(events[1]) > 1


def test_abstentions_are_not_sent(front):
    count = len(front.asked)
    reply = chat(front.http, "Zzz qqq?", abstain=True)
    assert reply["choices"][0]["message"]["content"] == "I do not know."
    assert len(front.asked) == count


def test_what_vllm_refuses_is_passed_on_in_words(front, tiny_base, tmp_path):
    with (
        AdapterStore(tmp_path / "empty") as empty,
        vllm_standin(tiny_base, empty) as other,
        asked_at(front, other.url),
    ):
        text = chat(front.http, status=404)
    assert "got status 404 from vLLM" in text and "does not exist" in text
    assert "start vLLM with PRAG_VLLM_STORE" in text
    with (
        vllm_standin(tiny_base, front.service.rag.store, max_rank=1) as other,
        asked_at(front, other.url),
    ):
        text = chat(front.http, status=400)
    assert "expected at most 1: start vLLM with --max-lora-rank" in text


def test_an_answer_that_breaks_off_and_a_vllm_that_is_gone_are_said(front):
    front.breaks_off_after = 2
    try:
        assert "got half an answer from vLLM" in chat(front.http, status=502)
    finally:
        front.breaks_off_after = 1000
    front.sends_tokens = False
    try:
        assert "expected return_token_ids: update vLLM" in chat(front.http, status=502)
    finally:
        front.sends_tokens = True
    with asked_at(front, "http://127.0.0.1:9"):
        assert "got no answer from vLLM" in chat(front.http, status=502)
    assert chat(front.http)["choices"]


def test_metrics_and_the_end(tiny_base, tmp_path):
    with AdapterStore(tmp_path / "store") as store, vllm_standin(tiny_base, store) as standin:
        engine = VllmEngine(standin.url)
        with running_server(tiny_base, tmp_path / "store", engine=engine) as (url, _):
            assert "prag_decoding_rows 0.0" in httpx.get(f"{url}/metrics").text
            assert httpx.get(f"{url}/readyz").status_code == 200
        assert not engine.alive


@pytest.mark.parametrize(("options", "error"), [
    (["--backend=vllm", "--backend_url=http://127.0.0.1:9"], "got no model from 'http://127.0.0"),
    (["--backend=vllm", "--backend_url=localhost:8000"], "got no model from 'localhost:8000'"),
    (["--backend=vllm"], "got backend vllm and backend_url ''"),
    (["--backend=vllm", "--backend_url=http://127.0.0.1:9", "--answering.focus=0.5"],
     "got answering.focus 0.5 with backend vllm, expected 0"),
    (["--backend=vllm", "--backend_url=http://127.0.0.1:9", "--answering.rank=32"],
     "got answering.rank 32 with backend vllm, expected 0"),
    (["--backend_url=http://127.0.0.1:9"], "got backend own and backend_url 'http"),
])  # fmt: skip
def test_a_url_that_does_not_answer_is_refused_before_anything_is_loaded(options, error, capsys):
    assert cli.main(["serve", "--port=0", "--base_model=none", *options]) == 2
    assert error in capsys.readouterr().err
