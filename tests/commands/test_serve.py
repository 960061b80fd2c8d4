"""`prag serve` as a real process: it keeps what it acknowledged, and stops when it is told to."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from hypernet.network.checkpoint import save_checkpoint
from prag_core import cli
from prag_core.adapters.store import AdapterStore
from prag_core.commands.serve import KEY_VARIABLE
from prag_core.server.guard import is_loopback
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.services import documents, message
from tests.fixtures.tiny import byte_tokenizer, tiny_model

KILLS = int(os.environ.get("PRAG_KILLS", "1"))
SETTINGS = ["--page", "--allowed_hosts=127.0.0.1,x.lan", "--limits.max_tokens=300"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Tiny model and hypernetwork as folders."""
    folder, base = tmp_path_factory.mktemp("parts"), tiny_model()
    base.model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    save_checkpoint(folder / "network", network(base), CONFIG, base)
    return [
        f"--base_model={folder / 'model'}", f"--hypernet={folder / 'network'}", "--dtype=float32",
    ]  # fmt: skip


@contextmanager
def process(options, store, log, **variables):
    """A server in a process of its own, with these variables; gives a client and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prag_core.cli", "serve", f"--port={port}", f"--store={store}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", KEY_VARIABLE: ""} | variables
    with (
        log.open("a") as errors,
        subprocess.Popen([*command, *options], stderr=errors, env=environment) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        try:
            until = time.monotonic() + 120
            while True:
                assert time.monotonic() < until and running.poll() is None, log.read_text()
                try:
                    if http.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield http, running
        finally:
            running.kill()


class Load:
    """A client that adds and removes documents until the server is gone."""

    def __init__(self) -> None:
        self.kept, self.unsure, self.number = set(), set(), 0

    def run(self, http) -> None:
        with suppress(httpx.TransportError):
            while True:
                self.number += 1
                new = [{"title": d.title, "text": d.text} for d in documents(2, 2 * self.number)]
                reply = http.post("/v1/documents", json={"documents": new}).raise_for_status()
                first, second = (item["id"] for item in reply.json()["data"])
                self.kept.add(second)
                self.unsure.add(first)  # until its removal is acknowledged
                http.delete(f"/v1/documents/{first}").raise_for_status()
                self.unsure.discard(first)


def listed(http) -> set[str]:
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        page = http.get("/v1/documents", params={"limit": 1000, "after": after}).json()
        found += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return set(found)


def test_nothing_acknowledged_is_lost_by_kill(options, tmp_path):
    """PRAG_KILLS sets how often the server is killed under load."""
    store, log, load, draw = tmp_path / "store", tmp_path / "log", Load(), random.Random(0)
    for _ in range(KILLS):
        with process(options, store, log) as (http, running):
            before = load.number
            client = threading.Thread(target=load.run, args=(http,))
            client.start()
            while load.number < before + 3:
                time.sleep(0.01)
            time.sleep(draw.random())
            running.kill()
            client.join(60)
            assert running.wait() == -signal.SIGKILL
        with AdapterStore(store) as opened:
            assert opened.verify() == []
        with process(options, store, log) as (http, running):
            found = listed(http)
            assert load.kept <= found
            assert len(found - load.kept - load.unsure) <= 2  # under way, never acknowledged
            for identifier in found - load.kept:
                http.delete(f"/v1/documents/{identifier}").raise_for_status()
            load.unsure.clear()
    with AdapterStore(store) as opened:
        assert {key.split("-")[0] for key in opened.keys("")} == load.kept


def require_settings(http) -> None:
    """Check what `SETTINGS` and the key say; the client has the key from then on."""
    assert http.get("/v1/models").status_code == 401
    http.headers["Authorization"] = "Bearer secret"
    assert http.get("/v1/models").status_code == 200
    assert http.get("/v1/models", headers={"Host": "x.lan"}).status_code == 200
    assert http.get("/v1/models", headers={"Host": "y.lan"}).status_code == 403
    body = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 301}
    assert "expected at most 300" in message(http.post("/v1/chat/completions", json=body), 400)
    page = http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")


def test_it_keeps_to_its_settings_stops_when_it_is_told_and_logs_json(options, tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    options = [*options, *SETTINGS]
    with process(options, store, log, **{KEY_VARIABLE: "secret"}) as (http, running):
        require_settings(http)
        http.post("/v1/documents", json={"text": "Ada lives in Tarn."}).raise_for_status()
        body = {"prompt": "P", "max_tokens": 300}
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(http.post, "/v1/completions", json=body)
            while "prag_decoding_rows 1" not in http.get("/metrics").text and not reply.done():
                pass
            running.send_signal(signal.SIGTERM)
            assert reply.result(60).status_code == 200  # what runs is finished
        assert running.wait(30) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    requests = [line for line in lines if "route" in line]
    assert {"/v1/documents", "/v1/completions"} <= {request["route"] for request in requests}
    assert all(len(r["id"]) == 16 and r["seconds"] >= 0 for r in requests)


def test_a_taken_port_and_a_foreign_address_are_refused_in_words(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("127.0.0.1", 70_000)):
            assert cli.main(["serve", f"--host={host}", f"--port={number}"]) == 2
            assert f"got {host}:{number}, where no server can listen" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max_rows=0", "--max_queue=0"])
def test_a_server_that_could_answer_nothing_is_refused(option, capsys):
    assert cli.main(["serve", option]) == 2
    assert "expected 1 or more" in capsys.readouterr().err


def test_a_base_model_without_hypernetwork_is_refused_in_words(
    options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("prag_core.commands.serve.write_json_logs", lambda: None)
    base, _, dtype = options
    assert cli.main(["serve", base, dtype, "--port=0", f"--store={tmp_path / 's'}"]) == 2
    text = capsys.readouterr().err
    assert "no hypernetwork is shipped, expected one, which makes" in text
    assert "`prag answer --path trained`" in text and "train adapters" not in text


def test_no_key_no_strangers(options, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    arguments = ["serve", "--host=0.0.0.0", f"--store={tmp_path / 's'}", *options]
    assert cli.main(arguments) == 2
    assert "got host 0.0.0.0 without an API key" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "a.b": False}
    assert {host: is_loopback(host) for host in hosts} == hosts
