"""Mutated requests: whatever comes, the server answers, never with its own failure.

PRAG_EXAMPLES sets their number (the default is small; 10,000 take some minutes).
"""

from __future__ import annotations

import copy
import json
import math
import random

import httpx

from prag_core.server.limits import Limits
from tests.fixtures.examples import examples
from tests.fixtures.services import documents, running_server

REQUESTS = examples(300)
LIMITS = Limits(max_body_bytes=20_000, max_tokens=4, default_tokens=2, timeout=20)
VALUES = [
    None, True, False, 0, -1, 1, 1e308, -1e-308, math.nan, math.inf, 2**70,
    "", " ", "a", "\x00", "\ud800", "é東😀",
    "../../etc/passwd", "a" * 3000, [], [[]], {}, {"a": 1}, [None], ["a"], [1, 2], [-1], [10**9],
    "generated", "trained", "parametric", "combine", "in_context", "tiny", "text", "user",
]  # fmt: skip
BODIES = {
    "/v1/documents": {"title": "Ada", "text": "Ada lives in Tarn."},
    "/v1/documents?path=generated": {"documents": [{"title": "Bo", "text": "Bo lives in Oss."}]},
    "/v1/jobs": {"document_ids": ["0"]},
    "/v1/chat/completions": {
        "model": "tiny", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2,
        "temperature": 0.5, "top_p": 0.9, "stop": ["a"], "stream": False, "mode": "parametric",
        "k": 1, "document_ids": ["0"], "among": ["0"], "path": "generated", "merge": "ones",
        "stream_options": {"include_usage": True}, "n": 1, "seed": 1,
    },
    "/v1/completions": {"prompt": ["Who?", "Why?"], "max_tokens": 2, "mode": "combine", "k": 2},
}  # fmt: skip
PATHS = [
    "/", "/v1/documents", "/v1/documents/{id}", "/v1/documents/{id}/adapter",
    "/v1/documents/{id}/norms", "/v1/jobs", "/v1/jobs/{id}", "/v1/models", "/v1/models/{id}",
    "/v1/documents/upload", "/metrics", "/healthz", "/openapi.json", "/v1/none", "//",
]  # fmt: skip
IDS = ["..", "%2e%2e%2f", "0" * 500, "%00", "a b", "é", "-"]


def mutated(body, draw: random.Random):
    """The body with some of its values replaced, left out or added to."""
    body = copy.deepcopy(body)
    for _ in range(draw.randint(0, 3)):
        target, parent = body, None
        while isinstance(target, (dict, list)) and target and draw.random() < 0.7:
            parent = target
            key = draw.choice(list(target) if isinstance(target, dict) else range(len(target)))
            target = parent[key]
        if parent is None:
            body[f"extra{draw.randint(0, 9)}"] = draw.choice(VALUES)
        elif draw.random() < 0.3:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
    return body


def content(body, draw: random.Random) -> bytes:
    """The body as JSON, now and then broken."""
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    kind = draw.random()
    if kind < 0.05:
        return text[: draw.randrange(len(text) + 1)]
    if kind < 0.1:
        place = draw.randrange(len(text) + 1)
        return text[:place] + draw.randbytes(3) + text[place:]
    return text


def test_no_request_makes_the_server_fail(tiny_base, tmp_path):
    draw = random.Random(0)
    with (
        running_server(tiny_base, tmp_path, LIMITS) as (address, service),
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        ids = service.add(documents(3))
        for _ in range(REQUESTS):
            if draw.random() < 0.75:
                path = draw.choice(list(BODIES))
                body = json.loads(json.dumps(BODIES[path]).replace('"0"', json.dumps(ids[0])))
                sent = content(mutated(body, draw), draw)
                kind = draw.choice(["application/json"] * 9 + ["text/plain", "multipart/form-data"])
                reply = http.post(path, content=sent, headers={"content-type": kind})
            else:
                path = draw.choice(PATHS).replace("{id}", draw.choice([*IDS, ids[1]]))
                if "upload" in path:
                    name = draw.choice(["a.txt", "..", "a.json", "a" * 300, "é.jsonl", "\x00"])
                    file = (name, draw.choice([b"", b"a", b"{}", b'[{"text": 1}]', b"\xff\x00"]))
                    reply = http.post(path, files=[("files", file)])
                else:
                    query = {draw.choice(["limit", "after", "path"]): draw.choice(VALUES[:8])}
                    method = draw.choice(["GET"] * 6 + ["PUT", "PATCH", "HEAD", "OPTIONS"])
                    reply = http.request(method, path, params=query if draw.random() < 0.3 else {})
            assert reply.status_code < 500, (path, reply.status_code, reply.text)
            assert "Traceback" not in reply.text and str(tmp_path) not in reply.text
            if reply.status_code >= 400 and reply.request.method in ("GET", "POST"):
                assert reply.json()["error"]["message"], path
        assert http.get("/readyz").status_code == 200
        assert service.rag.store.verify() == []
        asked = {"messages": [{"role": "user", "content": "What is P0?"}], "document_ids": ids[:1]}
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
