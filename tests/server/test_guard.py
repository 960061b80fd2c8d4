"""Guard: by which names, from whose pages and with which key the server may be called."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from prag_core.server.guard import Guard, checked_hosts, checked_origins
from prag_core.server.metrics import Metrics
from tests.fixtures.services import message, running_server

LOOPBACK = checked_hosts("", "127.0.0.1")


def answer(method="DELETE", path="/v1/documents/0", key="", hosts=LOOPBACK, origins=(), **headers):
    """What a guarded application answers; a header of None is left out."""
    guard = Guard(PlainTextResponse("in"), Metrics(), key, 100, hosts, origins)
    lines = [(k.encode(), v.encode()) for k, v in headers.items() if v is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": lines}
    sent = []

    async def send(part):
        sent.append(part)

    asyncio.run(guard(scope, None, send))
    body = b"".join(part.get("body", b"") for part in sent)
    return httpx.Response(sent[0]["status"], content=body)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "localhost.", "localhost.:8000", "127.0.0.1:1", "[::1]:8000"],
)
def test_names_of_loopback(host):
    assert answer(host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example", "attacker.example:8000", "localhost.attacker.example", "", None,
        "localhost@attacker.example", "attacker.example/localhost", "127.0.0.1.attacker.example",
        "localhost..", "localhost:", "[::1", "::1", "[::2]", "*", "loc alhost", "xlocalhost",
        "10.0.0.1", "0.0.0.0",
    ],
)  # fmt: skip
def test_a_name_that_resolves_to_loopback_is_refused(host):
    """DNS rebinding: the page's own name, in both headers, leads here."""
    for method in ("GET", "DELETE", "OPTIONS"):
        reply = answer(method, host=host, origin=host and f"http://{host}")
        assert "--allowed_hosts" in message(reply, 403)
    assert answer("GET", "/healthz", host=host).status_code == 200  # probes call by address


def test_hosts_that_are_allowed():
    hosts = checked_hosts("Docs.Example.com:443, *.lan ,[2001:DB8::1]", "0.0.0.0")
    for host in ("docs.example.com", "a.b.lan:80", "[2001:db8::1]:8000"):
        assert answer(host=host, hosts=hosts).status_code == 200
    for host in ("example.com", "lan", ".lan", "evil-lan", "localhost"):
        assert answer(host=host, hosts=hosts).status_code == 403
    assert answer(host="any.thing", hosts=checked_hosts("*", "127.0.0.1")).status_code == 200


def test_hosts_by_default():
    assert checked_hosts("", "127.0.0.2")[-1] == "127.0.0.2"
    assert checked_hosts("", "::1")[-1] == "[::1]"
    assert checked_hosts("", "0.0.0.0") == checked_hosts("", "docs.lan") == ("*",)
    for wrong in ("http://a", "a b", "*a", "a.*"):
        with pytest.raises(ValueError, match="got allowed host"):
            checked_hosts(wrong, "127.0.0.1")


def test_pages_of_other_sites():
    here = {"host": "localhost:8000"}
    for origin in ("http://localhost:8000", "http://LOCALHOST:8000"):
        assert answer(origin=origin, **here).status_code == 200
    assert answer(origin="https://localhost", host="localhost:443").status_code == 200
    others = ("https://example.com", "http://localhost:3000", "http://127.0.0.1:8000", "null", "x")
    for origin in (*others, "http://[", "http://localhost:8000@example.com", "://"):
        assert "--allowed_origins" in message(answer(origin=origin, **here), 403)
        assert answer("GET", origin=origin, **here).status_code == 200  # not shown to the page
    allowed = checked_origins("https://Example.com/, http://localhost:3000")
    assert answer(origin="https://example.com", origins=allowed, **here).status_code == 200
    assert answer(origin="https://example.com:1", origins=allowed, **here).status_code == 403
    assert answer(origin="null", origins=checked_origins("*"), **here).status_code == 200
    for wrong in ("example.com", "https://a/b", "null"):
        with pytest.raises(ValueError, match="got allowed origin"):
            checked_origins(wrong)


def test_the_key_counts_after_host_and_origin():
    asked = {"host": "localhost", "key": "secret"}
    assert message(answer(**asked), 401)
    assert answer(**asked, authorization="Bearer secret").status_code == 200
    assert answer(**asked, authorization="bearer secret").status_code == 200
    assert message(answer(**asked, authorization="Bearer sécret"), 401)
    assert message(answer(**asked, authorization="ÿ secret"), 401)
    assert message(answer(host="x", key="secret", authorization="Bearer secret"), 403)


def test_browsers_ask_first(tiny_base, tmp_path):
    access = {"allowed_origins": ("https://docs.example.com",)}
    with (
        running_server(tiny_base, tmp_path, api_key="secret", access=access) as (address, _),
        httpx.Client(base_url=address) as http,
    ):
        ask = {"access-control-request-method": "POST"}
        ask |= {"access-control-request-headers": "authorization,content-type"}
        for origin, status in (("https://docs.example.com", 200), ("https://example.com", 400)):
            reply = http.options("/v1/chat/completions", headers={"origin": origin, **ask})
            assert reply.status_code == status
            allowed = reply.headers.get("access-control-allow-origin")
            assert allowed == (origin if status == 200 else None)
        headers = {"origin": "https://docs.example.com", "authorization": "Bearer secret"}
        reply = http.post("/v1/documents", json={"text": "a"}, headers=headers)
        assert reply.status_code == 201
        assert reply.headers["access-control-allow-origin"] == headers["origin"]
        reply = http.post("/v1/documents", json={"text": "a"}, headers={"origin": "https://x.y"})
        assert message(reply, 403) and "access-control-allow-origin" not in reply.headers
