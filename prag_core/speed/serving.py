"""Benchmark of the server: a real process goes in, its rates and the pace of a stream come out.

Requests a second are beside those of one request at a time; the time between a stream's tokens,
while documents are added, beside that of a stream alone.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from prag_core.speed.measurement import Measurement, bounded, compared, seconds
from prag_core.speed.servers import free_port, running
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
    settings = [f"--base_model={base_model}", f"--hypernet={hypernet}"]
    rows, loads = [], {}
    for max_rows in (32, 1):
        with server([*settings, f"--max_rows={max_rows}"], folder / f"serve{max_rows}") as port:
            documents = [{"title": d.title, "text": d.text} for d in workload_documents()]
            post(port, "/v1/documents", {"documents": documents})
            if max_rows > 1:
                rows.append(_first_answer(port))
                if not quick:
                    rows += measure_stalls(port)
            for clients in CLIENTS:
                # One row at a time is slow: half as many requests tell its rate.
                count = clients if quick else REQUESTS[clients] // (1 if max_rows > 1 else 2)
                loads[max_rows, clients] = load(port, clients, count)
    for clients in CLIENTS:
        ours, alone = loads[32, clients], loads[1, clients]
        note = (
            f"p50 {ours['p50']:.2f} s, p95 {ours['p95']:.2f} s; one at a time "
            f"{alone['p50']:.2f} s, {alone['p95']:.2f} s"
        )
        least = 3 if clients == 32 else math.nan  # with fewer there is less to share
        name = f"answers, {clients} clients / one at a time"
        rows.append(compared(name, ours["rate"], alone["rate"], "requests/s", least, note))
    return rows


def _first_answer(port: int) -> Measurement:
    """Time from adding a document of 100 words to the whole first answer from it."""
    began = time.perf_counter()
    reply = post(port, "/v1/documents", {"title": "Quellamar", "text": NEW_DOCUMENT})
    answer = ask(port, NEW_QUESTION, document_ids=[reply["data"][0]["id"]])
    spent = time.perf_counter() - began
    note = f"answer: {answer['choices'][0]['message']['content'][:60]!r}"
    return bounded("document of 100 words to first answer", spent, "s", "<=", 1, note)


def load(port: int, clients: int, count: int) -> dict[str, float]:
    """Ask `count` questions from so many clients; returns rate, and p50 and p95 of the latency."""
    questions = [question.text for question in workload_questions(count)]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:  # a thread a client; each asks as it is answered
        times = sorted(pool.map(lambda q: seconds(lambda: ask(port, q)), questions))
    rate = count / (time.perf_counter() - began)
    p95 = times[min(int(count * 0.95), count - 1)]
    return {"rate": rate, "p50": times[count // 2], "p95": p95}


def ask(port: int, question: str, **fields) -> dict:
    """Ask for an answer of at most 32 tokens."""
    messages = [{"role": "user", "content": question}]
    return post(port, "/v1/chat/completions", {"messages": messages, "max_tokens": 32, **fields})


def post(port: int, path: str, body: dict) -> dict:
    """Send JSON and return the reply's.

    Raises:
        RuntimeError: a status other than success.
    """
    with _reply(port, path, body) as reply:
        return json.loads(reply.read())


@contextmanager
def _reply(port: int, path: str, body: dict) -> Iterator[http.client.HTTPResponse]:
    address = ("127.0.0.1", port)  # not urllib's: that would ask a proxy of the environment
    with closing(http.client.HTTPConnection(*address, timeout=ANSWERS_WITHIN)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        if (status := reply.status) >= 300:
            text = reply.read().decode()[:200]
            raise RuntimeError(f"got status {status} from {path}, expected success: {text}")
        yield reply


@contextmanager
def server(settings: Sequence[str], folder: Path) -> Iterator[int]:
    """Run `prag serve` in a process of its own; gives its port.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "prag_core.cli", "serve", f"--port={port}",
        f"--store={folder / 'store'}", f"--limits.timeout={ANSWERS_WITHIN}", *settings,
    ]  # fmt: skip
    with running(command, folder / "server.log", lambda: _accepts(port), STARTS_WITHIN):
        yield port


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


TOKENS, DOCUMENTS, BATCH = 256, 200, 20
PROMPT = "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve,"


def measure_stalls(port: int) -> list[Measurement]:
    """Follow streams of a server token by token, alone and while 200 short documents are added."""
    with ThreadPoolExecutor(1) as pool:
        list(_gaps(port, 16))  # the first tokens warm up
        alone = sorted(_gaps(port))
        adding = pool.submit(_add_documents, port)
        beside: list[float] = []
        while not adding.done():  # as many streams as it takes; their first tokens count too
            beside += _gaps(port)
        spent = adding.result()
    beside.sort()
    note = (
        f"{DOCUMENTS} documents in {spent:.1f} s; p50 {_part(beside, 0.5):.1f} ms, longest "
        f"{beside[-1]:.1f} ms of {len(beside)}; alone {_part(alone, 0.5):.1f} ms, "
        f"{alone[-1]:.1f} ms of {len(alone)}"
    )
    name = "p95 between tokens, documents added meanwhile / alone"
    return [compared(name, _part(beside, 0.95), _part(alone, 0.95), "ms", note=note)]


def _part(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _gaps(port: int, tokens: int = TOKENS) -> Iterator[float]:
    """Stream a text from the base model alone; yields milliseconds between its pieces."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True, "mode": "closed_book"}
    with _reply(port, "/v1/completions", body) as reply:
        last = 0.0
        for line in reply:
            if not line.startswith(b'data: {"') or not json.loads(line[6:])["choices"][0]["text"]:
                continue
            now = time.perf_counter()
            if last:
                yield (now - last) * 1000
            last = now


def _add_documents(port: int) -> float:
    """Post short documents in batches; returns how long it took."""
    began = time.perf_counter()
    for start in range(0, DOCUMENTS, BATCH):
        texts = {
            f"Port {i}": f"The ferry of Port {i} leaves at {i % 24} and carries {i * 7} cars."
            for i in range(start, start + BATCH)
        }
        documents = [{"title": title, "text": text} for title, text in texts.items()]
        post(port, "/v1/documents", {"documents": documents})
    return time.perf_counter() - began
