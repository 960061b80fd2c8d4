"""Benchmark of the server: requests a second of a real process, beside one request at a time."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from prag_core.speed.measurement import Measurement, compared, limited
from prag_core.speed.workload import workload_documents, workload_questions

CLIENTS = (1, 8, 32)
REQUESTS = {1: 24, 8: 96, 32: 192}
STARTS_WITHIN = 300  # seconds
ANSWERS_WITHIN = 3600  # seconds; the last of 32 clients waits for 31 answers
# 100 words that none of the demo's documents hold
NEW_DOCUMENT = (
    "The lighthouse of Quellamar was designed by Teresa Undrell and first lit in 1904. It stands "
    "on the basalt cape of Orrin, nineteen kilometres south of the harbour town of Veld, and its "
    "lamp was fed with whale oil until 1931, when the keeper Joost Amberg laid a cable across the"
    " sandbank. The tower has two hundred and twelve steps, a green copper dome and a fog bell "
    "that was cast in Malmstad. During the storm of 1953 forty fishermen found shelter in its "
    "cellar for three nights. Today the cape is a reserve for puffins, and the old lamp can be "
    "seen in the museum of Veld."
)
NEW_QUESTION = "Who designed the lighthouse of Quellamar?"


def measure_serving(base_model: str, hypernet: str, folder: Path, quick: bool) -> list[Measurement]:
    """Ask a server with the demo's documents from 1, 8 and 32 clients.

    The baseline is the same server with room for one row (`--max_rows 1`), which answers one
    request after the other, asked by as many clients.
    """
    settings = [
        f"--base_model={base_model}", f"--hypernet={hypernet}", f"--timeout={ANSWERS_WITHIN}",
    ]  # fmt: skip
    rows, found = [], {}
    for max_rows in (32, 1):
        with server([*settings, f"--max_rows={max_rows}"], folder / f"serve{max_rows}") as port:
            new = [{"title": d.title, "text": d.text} for d in workload_documents()]
            post(port, "/v1/documents", {"documents": new})
            if max_rows > 1:
                rows.append(_first_answer(port))
            for clients in CLIENTS:
                count = clients if quick else REQUESTS[clients] // (1 if max_rows > 1 else 2)
                found[max_rows, clients] = load(port, clients, count)
    for clients in CLIENTS:
        ours, alone = found[32, clients], found[1, clients]
        rows.append(
            compared(
                "serve", f"answers, {clients} clients / one at a time", ours["rate"], alone["rate"],
                "requests/s", 3 if clients == 32 else None,
                f"p50 {ours['p50']:.2f} s, p95 {ours['p95']:.2f} s; one at a time "
                f"{alone['p50']:.2f} s, {alone['p95']:.2f} s",
            )
        )  # fmt: skip
    return rows


def _first_answer(port: int) -> Measurement:
    """Time from adding a document of 100 words to the whole first answer from it."""
    began = time.perf_counter()
    reply = post(port, "/v1/documents", {"title": "Quellamar", "text": NEW_DOCUMENT})
    chosen = {"document_ids": [reply["data"][0]["id"]]}
    answer = ask(port, NEW_QUESTION, **chosen)
    seconds = time.perf_counter() - began
    note = f"answer: {answer['choices'][0]['message']['content'][:60]!r}"
    return limited("serve", "document of 100 words to first answer", seconds, "s", 1, note)


def load(port: int, clients: int, count: int) -> dict[str, float]:
    """Ask `count` questions from so many clients; returns rate, and p50 and p95 of the latency."""
    questions: queue.SimpleQueue[str] = queue.SimpleQueue()
    for question in workload_questions(count):
        questions.put(question.text)
    times: list[float] = []

    def client() -> None:
        with suppress(queue.Empty):
            while True:
                question, began = questions.get_nowait(), time.perf_counter()
                ask(port, question)
                times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if len(times) != count:
        raise RuntimeError(f"got {len(times)} answers, expected {count}: see the server's log")
    times.sort()
    return {
        "rate": count / seconds,
        "p50": times[count // 2],
        "p95": times[min(int(count * 0.95), count - 1)],
    }


def ask(port: int, question: str, **fields) -> dict:
    """Ask for an answer of at most 32 tokens."""
    messages = [{"role": "user", "content": question}]
    return post(port, "/v1/chat/completions", {"messages": messages, "max_tokens": 32, **fields})


def post(port: int, path: str, body: dict) -> dict:
    """Send JSON and return the reply's.

    Raises:
        RuntimeError: a status other than success.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWERS_WITHIN)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    if reply.status >= 300:
        raise RuntimeError(f"got status {reply.status} from {path}, expected success: {text[:200]}")
    return json.loads(text)


@contextmanager
def server(settings: Sequence[str], folder: Path) -> Iterator[int]:
    """Run `prag serve` in a process of its own; gives its port.

    Raises:
        RuntimeError: it did not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [
        sys.executable, "-m", "prag_core.cli", "serve", f"--port={port}",
        f"--store={folder / 'store'}", *settings,
    ]  # fmt: skip
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            _wait(process, port, log)
            yield port
        finally:
            process.terminate()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"got no server, expected one: see {log}")
        time.sleep(0.2)
