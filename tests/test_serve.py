"""`prag serve` as a real process: it keeps what it acknowledged, and stops when it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from conftest import byte_tokenizer, tiny_model
from hypernet_fixtures import CONFIG, network
from service_fixtures import documents

from hypernet.checkpoint import save_checkpoint
from prag_core import cli
from prag_core.adapter_store import AdapterStore
from prag_core.serve import is_loopback


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
def process(options, store, log):
    """A server in a process of its own; gives a client and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prag_core.cli", "serve", f"--port={port}", f"--store={store}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
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


def test_nothing_acknowledged_is_lost_by_kill_and_all_is_found_again(options, tmp_path):
    store, log, acknowledged, removed = tmp_path / "store", tmp_path / "log", set(), set()
    with process(options, store, log) as (http, running):
        enough = threading.Event()

        def load() -> None:
            try:
                for number in range(10_000):
                    new = [{"title": d.title, "text": d.text} for d in documents(2, 2 * number)]
                    reply = http.post("/v1/documents", json={"documents": new})
                    ids = [item["id"] for item in reply.json()["data"]]
                    acknowledged.update(ids)
                    removed.add(ids[0])  # whether it is removed is open until the reply
                    http.delete(f"/v1/documents/{ids[0]}").raise_for_status()
                    acknowledged.discard(ids[0])
                    removed.discard(ids[0])
                    if number == 5:
                        enough.set()
            except httpx.TransportError:
                pass

        client = threading.Thread(target=load)
        client.start()
        assert enough.wait(60)
        running.kill()
        client.join(60)
        assert running.wait() == -signal.SIGKILL
    with AdapterStore(store) as opened:
        assert opened.verify() == []
    with process(options, store, log) as (http, running):
        listed = {item["id"] for item in http.get("/v1/documents?limit=1000").json()["data"]}
        assert acknowledged - removed <= listed
        assert len(listed) <= len(acknowledged) + 2  # and what was under way
        body = {"prompt": "P", "document_ids": [sorted(listed)[0]]}
        assert http.post("/v1/completions", json=body).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    requests = [line for line in lines if "route" in line]
    assert {"/v1/documents", "/v1/documents/{document_id}"} <= {r["route"] for r in requests}
    assert all(len(r["id"]) == 16 and r["seconds"] >= 0 for r in requests)


def test_no_key_no_strangers(options, tmp_path, capsys):
    arguments = ["serve", "--host=0.0.0.0", f"--store={tmp_path / 's'}", *options]
    assert cli.main(arguments) == 2
    assert "got host 0.0.0.0 without an API key" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "a.b": False}
    assert {host: is_loopback(host) for host in hosts} == hosts
