"""A service over the tiny model, a real server around it, and requests to that."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from parametrizers import OnePairAugmenter, make_parametrizer

from prag_core.adapter_store import AdapterStore
from prag_core.documents import Document
from prag_core.engine import Engine
from prag_core.lora_training import LoraTrainer
from prag_core.pipeline import ParametricRAG
from prag_core.server import create_app
from prag_core.server_metrics import Metrics
from prag_core.server_schemas import Limits
from prag_core.service import Service
from prag_core.training_loop import LoraTrainingOptions

TRAINING = LoraTrainingOptions(learning_rate=1e-2, epochs=2, documents_per_batch=2)


def documents(count: int, start: int = 0) -> list[Document]:
    return [Document(f"P{i} is {i * 7}.", f"P{i}") for i in range(start, start + count)]


@contextmanager
def running_service(base, folder: Path, training: LoraTrainingOptions = TRAINING, **options):
    """A service over a store in this folder."""
    metrics = options.pop("metrics", Metrics())
    cache_bytes = options.pop("cache_bytes", 1 << 24)
    with AdapterStore(folder) as store:
        rag = ParametricRAG(base, parametrizer=make_parametrizer("generated", base), store=store)
        engine = Engine(base, observe=metrics.observe_step, **options)
        try:
            yield Service(
                rag,
                engine,
                lambda: LoraTrainer(base, OnePairAugmenter(), training),
                cache_bytes,
                metrics.observe_document,
            )
        finally:
            engine.close(10)


@contextmanager
def running_server(base, folder: Path, limits: Limits | None = None, api_key: str = "", **options):
    """A real server on a free port; gives its address and the service."""
    metrics = Metrics()
    with running_service(base, folder, metrics=metrics, **options) as service:
        app = create_app(service, metrics, "tiny", api_key, limits, page=True)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
            server.should_exit = True
            thread.join(20)


def add(http, count: int = 2, start: int = 0, **query) -> list[str]:
    new = [{"title": d.title, "text": d.text} for d in documents(count, start)]
    reply = http.post("/v1/documents", json={"documents": new}, params=query)
    assert reply.status_code == 201, reply.text
    return [item["id"] for item in reply.json()["data"]]


def ask(client, text: str, **extra):
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": text}], extra_body=extra
    )


def message(reply, status: int) -> str:
    """The text of an error in OpenAI's shape."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["type"] and "Traceback" not in error["message"]
    return error["message"]
