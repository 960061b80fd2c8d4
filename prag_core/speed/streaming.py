"""Benchmark of a stream: time between its tokens, alone and while documents are added."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from prag_core.speed.measurement import Measurement, compared

TOKENS, DOCUMENTS, BATCH = 256, 200, 20
WITHIN = 600  # seconds, for one reply
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
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)) as connection:
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
        )
        last = 0.0
        for line in connection.getresponse():
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
        numbers = range(start, start + BATCH)
        texts = [
            f"The ferry of Port {i} leaves at {i % 24} and carries {i * 7} cars." for i in numbers
        ]
        body = json.dumps(
            {
                "documents": [
                    {"text": text, "title": f"Port {i}"}
                    for text, i in zip(texts, numbers, strict=True)
                ]
            }
        )
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)) as connection:
            connection.request("POST", "/v1/documents", body, {"content-type": "application/json"})
            if (status := connection.getresponse().status) != 201:
                raise RuntimeError(f"got status {status} for documents, expected 201: see the log")
    return time.perf_counter() - began
