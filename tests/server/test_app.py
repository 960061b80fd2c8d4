"""The server over HTTP: a real process's worth of it, asked by OpenAI's client."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import openai
import pytest
from starlette.exceptions import HTTPException

from prag_core.formats.peft_folder import from_peft
from prag_core.model.decoding_rows import RowText
from prag_core.model.wordings import Wording
from prag_core.pipeline.answers import AnswerOptions
from prag_core.server.completion_routes import Pending
from prag_core.server.limits import Limits
from tests.fixtures.document_files import docx, paragraph, pdf
from tests.fixtures.services import add, ask, message, running_server

LIMITS = Limits(
    max_body_bytes=20_000, max_documents=4, max_document_characters=2_000, max_tokens=64,
    default_tokens=6, timeout=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_base, tmp_path_factory):
    with running_server(tiny_base, tmp_path_factory.mktemp("server"), LIMITS) as made:
        yield made


@pytest.fixture
def http(server):
    """A client; every test leaves the server without documents."""
    with httpx.Client(base_url=server[0], timeout=60) as client:
        yield client
        for document, _ in server[1].list(1000):
            server[1].remove(document.id)


@pytest.fixture
def client(server, http):
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0)


def test_a_server_that_may_only_read_answers_and_refuses_changes(http, client, server, monkeypatch):
    (document_id,) = add(http, 1)
    body = {"documents": [{"text": "A new text."}]}
    with monkeypatch.context() as patch:
        patch.setattr(server[1].rag.store._index, "readonly", True)
        assert ask(client, "What is P0?").choices
        for reply in (
            http.post("/v1/documents", json=body),
            http.delete(f"/v1/documents/{document_id}"),
            http.post("/v1/jobs", json={"document_ids": [document_id]}),
        ):
            assert "may not write to its store" in message(reply, 403)
    assert len(server[1].list(9)) == 1


def test_a_full_disk_and_a_file_that_is_too_large_are_no_room(http, server, monkeypatch):
    for number, status in ((errno.ENOSPC, 507), (errno.EFBIG, 507), (errno.EMFILE, 500)):
        monkeypatch.setattr(server[1], "add", Mock(side_effect=OSError(number, "no")))
        assert message(http.post("/v1/documents", json={"text": "a"}), status)
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=OSError(errno.ENOSPC, "no")))
    assert message(http.post("/v1/documents/upload", files=[("files", ("a.txt", b"a"))]), 507)


def test_what_is_wrong_with_the_store_is_said_in_the_log_alone(http, server, monkeypatch, caplog):
    add(http, 1)
    silent = OSError(errno.ETIMEDOUT, "got s3://secret, which cannot be read")
    unsound = ValueError("got /secret/index.sqlite that SQLite cannot use")
    for error, status in ((silent, 503), (unsound, 500)):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(server[1].rag, "refresh", Mock(side_effect=error))
            for reply in (
                http.post("/v1/completions", json={"prompt": "P0 is"}),
                http.post("/v1/documents", json={"text": "a"}),
                http.get("/v1/documents"),
            ):
                assert "its log says why" in message(reply, status)
                assert "secret" not in reply.text
                assert ("retry-after" in reply.headers) == (status == 503)
        assert caplog.text.count(str(error)) >= 3
    with monkeypatch.context() as patch:
        patch.setattr(server[1].rag, "forget", Mock(side_effect=unsound))
        (entry,) = http.get("/v1/documents").json()["data"]
        assert "secret" not in message(http.delete(f"/v1/documents/{entry['id']}"), 500)


def test_documents_of_the_users_own_id_and_metadata(http, client):
    new = [
        {"id": f"u{year}", "text": f"P is {year}.", "metadata": {"year": year, "by": "Ada"}}
        for year in (1901, 1902)
    ]
    entries = http.post("/v1/documents", json={"documents": new}).json()["data"]
    assert [entry["source_id"] for entry in entries] == ["u1901", "u1902"]
    shown = http.get(f"/v1/documents/{entries[0]['id']}").json()
    assert shown["metadata"] == new[0]["metadata"]
    for question, where in (("P?", {"year": 1902}), ("Is 1902 P?", {"year": 1902, "by": "Ada"})):
        (source,) = ask(client, question, k=2, where=where).documents
        assert source["id"] == entries[1]["id"]
    assert ask(client, "1901?", where={"year": 1902}).documents == []
    body = {"messages": [{"role": "user", "content": "P?"}], "where": {"year": 1903}}
    assert "got where" in message(http.post("/v1/chat/completions", json=body), 400)
    (changed,) = http.post("/v1/documents", json={**new[0], "text": "P is now."}).json()["data"]
    ids = {item["id"] for item in http.get("/v1/documents").json()["data"]}
    assert ids == {changed["id"], entries[1]["id"]}
    for metadata in ({"a": None}, {"a": [1]}, {"a": {"b": 1}}):
        assert message(http.post("/v1/documents", json={"text": "a", "metadata": metadata}), 400)
    nan = [("files", ("a.jsonl", b'{"text": "a", "year": NaN}'))]
    assert "got NaN" in message(http.post("/v1/documents/upload", files=nan), 400)


def test_documents_are_added_listed_and_removed(http):
    one = http.post("/v1/documents", json={"title": "Ada", "text": "Ada lives in Tarn."})
    assert one.status_code == 201
    (first,) = one.json()["data"]
    assert first["path"] == "generated" and first["bytes"] > 0 and first["seconds"] > 0
    ids = add(http, 3)
    assert add(http, 3) == ids  # nothing is made again
    page = http.get("/v1/documents", params={"limit": 3}).json()
    rest = http.get("/v1/documents", params={"after": page["data"][-1]["id"]}).json()
    assert page["has_more"] and not rest["has_more"]
    listed = [item["id"] for item in page["data"] + rest["data"]]
    assert listed == sorted([*ids, first["id"]])
    assert http.get(f"/v1/documents/{first['id']}").json()["text"] == "Ada lives in Tarn."
    assert http.delete(f"/v1/documents/{first['id']}").json()["deleted"] is True
    for request in (http.get, http.delete):
        assert "got the id of no document" in message(request(f"/v1/documents/{first['id']}"), 404)


def test_files_are_taken(http):
    files = [
        ("files", ("notes.txt", b"The mill of Oss stands still.")),
        ("files", ("more.jsonl", b'{"text": "Ada lives in Tarn."}\n{"text": "Bo lives in Oss."}')),
    ]
    reply = http.post("/v1/documents/upload", files=files)
    assert reply.status_code == 201, reply.text
    entries = reply.json()["data"]
    assert len(entries) == 3 and entries[0]["source_id"] == "notes.txt"
    deep = b'{"text": ' + b"[" * 9000
    for name, content in (
        ("../../etc/bad.jsonl", b"{not json"), ("..", b""), ("bad.xyz", b"a"), ("bad.json", deep),
        ("notes.txt.gz", gzip.compress(b"a" * 10_000)), ("bad.txt", gzip.compress(b"a")),
    ):  # fmt: skip
        reply = http.post("/v1/documents/upload", files=[("files", (name, content))])
        text = message(reply, 400)
        assert name.split("/")[-1].strip(".") in text and "/tmp" not in text
    assert len(http.get("/v1/documents").json()["data"]) == 3


def test_a_form_without_files_is_told_their_field(http):
    for sent in (
        {"files": [("file", ("a.txt", b"a"))]}, {"data": {"files": "a"}}, {"json": {"text": "a"}},
    ):  # fmt: skip
        reply = http.post("/v1/documents/upload", **sent)
        assert message(reply, 400).startswith("files: got no file, expected one or more")
        assert reply.json()["error"]["param"] == "files"


def test_pages_pdf_and_word_files_are_taken(http, monkeypatch):
    sent = {
        "a.html": (b"<title>On Mills</title><p>The mill of Oss<script>x()</script>", "On Mills"),
        "b.PDF": (pdf("The mill of Tarn"), "b"),
        "c.docx": (docx(paragraph("The mill of Elm")), "The Report"),
        "e.csv": (b"title,text\nRow,The mill of Yew\n", "Row"),
    }
    files = [("files", (name, content)) for name, (content, _) in sent.items()]
    reply = http.post("/v1/documents/upload", files=files)
    assert reply.status_code == 201, reply.text
    entries = reply.json()["data"]
    assert [entry["title"] for entry in entries] == [title for _, title in sent.values()]
    texts = [http.get(f"/v1/documents/{entry['id']}").json()["text"] for entry in entries]
    assert texts == [f"The mill of {town}" for town in ("Oss", "Tarn", "Elm", "Yew")]
    for name, content in (("scan.pdf", pdf("")), ("x.pdf", b"%PDF-"), ("x.docx", b"PK\3\4")):
        text = message(http.post("/v1/documents/upload", files=[("files", (name, content))]), 400)
        assert name in text and "/tmp" not in text
    for name, library in (("a.html", "bs4.dammit"), ("b.PDF", "pypdf"), ("c.docx", "mammoth")):
        monkeypatch.setitem(sys.modules, library, None)  # as without the extra
        reply = http.post("/v1/documents/upload", files=[("files", (name, sent[name][0]))])
        assert "pip install 'prag[documents]'" in message(reply, 400)
    assert len(http.get("/v1/documents").json()["data"]) == len(sent)


def test_adapters_download_as_peft(http, server, tmp_path):
    (identifier,) = add(http, 1)
    reply = http.get(f"/v1/documents/{identifier}/adapter")
    assert reply.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(reply.content)).extractall(tmp_path)
    found = from_peft(tmp_path, server[1].rag.base)
    for path, pair in server[1].adapter(identifier).tensors.items():
        assert all(mine.equal(other) for mine, other in zip(pair, found.tensors[path], strict=True))


def test_chat_names_its_documents(http, client):
    closed = ask(client, "What is P1?")
    assert closed.documents == []
    ids = add(http)
    reply = ask(client, "What is P1?")
    assert reply.object == "chat.completion" and reply.model == "tiny"
    assert [d["id"] for d in reply.documents] == [ids[1]]
    assert reply.documents[0]["title"] == "P1" and reply.documents[0]["score"] > 0
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.choices[0].message.content != closed.choices[0].message.content
    named = ask(client, "What is P1?", document_ids=ids[:1], mode="combine")
    assert [d["id"] for d in named.documents] == ids[:1] and named.mode == "combine"
    both = ask(client, "What are P0 and P1?", k=2, merge="ones")
    assert len(both.documents) == 2
    for question in ("Hello!", "?!"):  # no match, no document
        reply, plain = (ask(client, question, mode=m) for m in ("parametric", "closed_book"))
        assert reply.documents == [] and reply.choices[0].message == plain.choices[0].message


def test_an_answer_ends_as_its_wording_says(tiny_base, tmp_path):
    wording = Wording("mine")
    body = {"messages": [{"role": "user", "content": "What is P0?"}], "temperature": 0}
    with running_server(tiny_base, tmp_path) as (address, service):

        def text(wording: Wording) -> str:
            service.rag.options = AnswerOptions(prompt=wording)
            reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
            return reply.json()["choices"][0]["message"]["content"]

        whole = text(wording)
        ending = replace(wording, ends=whole[len(whole) // 2])
        assert text(ending) == ending.answer(whole) != whole
        assert text(replace(ending, conclusion="So")) == whole  # reasoning is shown


def test_a_server_without_documents_abstains_in_a_stream_too(client):
    extra = {"extra_body": {"abstain": True}}
    messages = [{"role": "user", "content": "What is P1?"}]
    events = client.chat.completions.create(model="tiny", messages=messages, stream=True, **extra)
    choices = [event.choices[0] for event in events]
    assert "".join(choice.delta.content or "" for choice in choices) == "I do not know."
    assert choices[-1].finish_reason == "stop"
    plain = {**extra["extra_body"], "mode": "closed_book"}
    assert ask(client, "What is P1?", **plain).choices[0].message.content != "I do not know."


def test_replies_say_what_they_were_made_from(http, client):
    none = ask(client, "What is P1?")
    assert (none.documents, none.path, none.mode) == ([], None, "closed_book")
    add(http)
    one = ask(client, "What is P1?")
    assert (one.path, one.mode) == ("generated", "parametric") and one.prompt_id
    two = client.completions.create(
        model="tiny", prompt=["P1 is", "P0 is"], n=2, temperature=1, max_tokens=2
    )
    assert len(two.choices) == 4 and two.path == ["generated"] * 2
    single = client.completions.create(model="tiny", prompt=["P1 is", "P0 is"], max_tokens=2)
    assert two.usage.prompt_tokens == single.usage.prompt_tokens  # OpenAI's count: once a prompt
    left = ask(client, "What is P1?", least_relevance=1e9)
    used = [d for d in left.documents if d["weight"] == 0]
    assert used == []
    for question, extra in (("What is P1?", {"least_relevance": 1e9}), ("Zebra crossing?", {})):
        unknown = ask(client, question, abstain=True, **extra)
        assert unknown.choices[0].message.content == "I do not know."
        assert unknown.choices[0].finish_reason == "stop" and unknown.usage.completion_tokens == 0
        assert unknown.mode == "parametric" and not unknown.documents
        assert unknown.notes[0].startswith("abstained: ")
    called = [
        {"role": "user", "content": [{"type": "text", "text": "What is P1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        ]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ]  # fmt: skip
    options = {"model": "tiny", "messages": called, "response_format": {"type": "text"}}
    assert client.chat.completions.create(**options, tools=[], store=True).choices
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**{**options, "response_format": {"type": "json_object"}})
    assert raised.value.param == "response_format"


def test_streams_join_to_the_whole_text(http, client):
    add(http, 4)
    for question in ("What is P0?", "What is P2?", "Who is P3?", "Why?", "Where?", "What of it?"):
        messages = [{"role": "user", "content": question}]
        options = {"model": "tiny", "messages": messages, "max_tokens": 20}
        whole = client.chat.completions.create(**options)
        if len(whole.choices[0].message.content) > 5:  # random models stop when they like
            break
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    parts = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 3
    last = next(c for c in chunks if c.choices and c.choices[0].finish_reason)
    assert last.documents == whole.documents
    assert chunks[-1].usage == whole.usage


def test_completions_go_on_from_prompts(http, client):
    add(http)
    reply = client.completions.create(model="tiny", prompt=["P0 is", "P1 is"], max_tokens=5)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [rows[0]["title"] for rows in reply.documents] == ["P0", "P1"]
    one = client.completions.create(model="tiny", prompt="P1 is", max_tokens=5)
    assert one.choices[0].text == reply.choices[1].text
    stream = client.completions.create(model="tiny", prompt="P1 is", max_tokens=5, stream=True)
    assert "".join(c.choices[0].text for c in stream) == one.choices[0].text
    stop = one.choices[0].text.strip()[-1]
    cut = client.completions.create(model="tiny", prompt="P1 is", max_tokens=5, stop=stop)
    assert cut.choices[0].text == one.choices[0].text.split(stop)[0]
    seeded = [
        client.completions.create(model="tiny", prompt="P1 is", temperature=1.5, seed=seed)
        for seed in (3, 3, 4)
    ]
    texts = [reply.choices[0].text for reply in seeded]
    assert texts[0] == texts[1] != texts[2]


def test_a_requests_own_stop_ends_an_answer_before_its_first_word(client, monkeypatch):
    monkeypatch.setattr(RowText, "_text", lambda self: "\n\nTarn")
    options = {"model": "tiny", "prompt": "P1 is"}
    (choice,) = client.completions.create(**options, stop="\n\n").choices
    assert (choice.text, choice.finish_reason) == ("", "stop")
    assert client.completions.create(**options).choices[0].text == "\n\nTarn"


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_prompts_as_token_ids_and_unseeded_samples(server, http, client):
    ids = server[1].rag.base.tokenizer("P1 is").input_ids
    options = {"model": "tiny", "max_tokens": 5}
    text = client.completions.create(prompt="P1 is", **options).choices[0].text
    assert client.completions.create(prompt=ids, **options).choices[0].text == text
    both = client.completions.create(prompt=[ids, ids], **options)
    assert [choice.text for choice in both.choices] == [text, text]
    tiny = client.completions.create(prompt="P1 is", temperature=1e-38, **options)
    assert tiny.choices[0].text == text
    drawn = {
        client.completions.create(prompt="P", temperature=2, **options).choices[0].text
        for _ in range(8)
    }
    assert len(drawn) > 1


def test_other_sites_cannot_write(http):
    own = {"origin": str(http.base_url).rstrip("/")}
    assert http.post("/v1/documents", json={"text": "a"}, headers=own).status_code == 201
    foreign = {"origin": "https://example.com"}
    assert message(http.post("/v1/documents", json={"text": "a"}, headers=foreign), 403)


def test_trainings_are_jobs(http, client):
    new = {"title": "Ada", "text": "Ada lives in Tarn."}
    reply = http.post("/v1/documents", json=new, params={"path": "trained"}).json()
    identifier, job = reply["data"][0]["id"], reply["job"]["id"]
    assert reply["data"][0]["path"] == "generated"
    until = time.monotonic() + 60
    while http.get(f"/v1/jobs/{job}").json()["status"] != "succeeded":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert http.get(f"/v1/documents/{identifier}").json()["path"] == "trained"
    assert ask(client, "Where is Ada?").documents
    assert job in [item["id"] for item in http.get("/v1/jobs").json()["data"]]
    assert http.delete(f"/v1/jobs/{job}").json()["status"] == "succeeded"  # it had ended
    assert "got the id of no job" in message(http.get("/v1/jobs/none"), 404)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("documents", {"text": ""}, 400, "text: got \"\", expected at least 1"),
        ("documents", {"text": "  "}, 400, "got an empty document"),
        ("documents", {"text": "\u200b\u2060"}, 400, "got an empty document"),
        ("documents", {"documents": []}, 400, "documents: got an empty list"),
        ("documents", {"text": "a", "name": "b"}, 400, "name: got a field that there is none of"),
        ("documents", {"documents": [{"text": f"{i}"} for i in range(5)]}, 413, "got 5 documents"),
        ("documents", {"text": "a" * 3000}, 413, "got a document of 3000 characters"),
        ("documents", {"text": "a" * 30_000}, 413, "got a larger body than 20000 bytes"),
        ("documents?path=none", {"text": "a"}, 400, "path: got \"none\", expected"),
        ("chat/completions", {"messages": []}, 400, "messages: got an empty list"),
        ("chat/completions", {"messages": [{"role": "system", "content": "a"}]}, 400, "got system"),
        ("chat/completions", {"messages": [{"role": "x", "content": "a"}]}, 400, 'role: got "x"'),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("completions", {"prompt": ""}, 400, "got an empty prompt"),
        ("completions", {"prompt": [[]]}, 400, "prompt"),
        ("completions", {"prompt": [10**9]}, 400, "got token id 1000000000, expected less than"),
        ("completions", {"prompt": "a", "mode": "sft"}, 400, "mode: got \"sft\", expected"),
        ("completions", {"prompt": "a", "max_tokens": 65}, 400, "max_tokens: got 65, exp"),
        ("completions", {"prompt": "a" * 600}, 400, "got a prompt of 600 tokens"),
        ("completions", {"prompt": "a", "n": 20}, 400, "n: got 20, expected"),
        ("completions", {"prompt": "a", "document_ids": ["../x"]}, 400, "got unknown document"),
        ("completions", {"prompt": "a", "model": "gpt-4"}, 404, 'model: got "gpt-4"'),
    ],
)  # fmt: skip
def test_bad_requests(http, path, body, status, text):
    assert text in message(http.post(f"/v1/{path}", json=body), status)


def test_bodies_that_are_no_json(http):
    for content in (b"", b"{", b"\xff\xfe", b'{"text": "\\ud800"}', b"[" * 5000):
        assert message(http.post("/v1/documents", content=content), 400)
    chunks = (b"x" * 1000 for _ in range(30))  # no content-length
    assert "got a larger body" in message(http.post("/v1/documents", content=chunks), 413)


def test_health_metrics_and_request_ids(http, client):
    add(http)
    ask(client, "What is P1?")
    for path in ("/healthz", "/readyz"):
        assert http.get(path).json() == {"status": "ok"}
    reply = http.get("/metrics")
    assert len(reply.headers["x-request-id"]) == 16
    for line in (
        "prag_documents 2.0", "prag_adapters_in_memory", "prag_queue_rows 0",
        'prag_requests_total{method="POST",route="/v1/chat/completions",status="200"}',
        'prag_document_seconds_count{path="generated"}', "prag_batch_rows_bucket",
    ):  # fmt: skip
        assert line.removesuffix(".0") in reply.text


def test_keys(tiny_base, tmp_path):
    with (
        running_server(tiny_base, tmp_path, api_key="secret") as (address, _),
        httpx.Client(base_url=address) as http,
    ):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            assert message(http.get("/v1/models", headers=headers), 401)
            assert message(http.get("/metrics", headers=headers), 401)
            assert http.get("/healthz", headers=headers).status_code == 200
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
        assert list(client.models.list())


def test_a_client_that_leaves_before_its_row_is_built_ends_quietly():
    cancelled = []

    async def gone() -> bool:
        return True

    async def ask() -> None:
        row = Pending(ticket=SimpleNamespace(cancel=lambda: cancelled.append(True)))
        await row.begin(SimpleNamespace(is_disconnected=gone))

    with pytest.raises(HTTPException) as error:
        asyncio.run(ask())
    assert error.value.status_code == 499 and cancelled
