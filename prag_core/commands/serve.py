"""Serve: settings go in, a server runs until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from dataclasses import replace
from typing import Any, Literal

from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.setup import Setup
from prag_core.server.limits import Limits

KEY_VARIABLE = "PRAG_API_KEY"


def serve(
    setup: Setup,
    store: str = "runs/serve",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str = "",
    max_rows: int = 32,
    max_queue: int = 256,
    max_wait: float = 0.005,
    cache_bytes: int = 1 << 30,
    limits: Limits = Limits(),  # noqa: B008 (frozen: calls cannot change it)
    grace: float = 30.0,
    page: bool = False,
    model_name: str = "",
    allowed_hosts: str = "",
    allowed_origins: str = "",
    backend: Literal["own", "vllm"] = "own",
    backend_url: str = "",
) -> None:
    """Answer questions over HTTP, as OpenAI's API does, while documents come and go.

    Args:
        setup: shared settings; adapters are generated, and trained by jobs (POST /v1/jobs).
        store: folder of the adapter store; what was added before is found again.
        host: address to listen on; beyond loopback an API key is needed.
        port: to listen on.
        api_key: that clients must send; the variable PRAG_API_KEY when empty (it does not show in
            the list of processes).
        max_rows: requests decoded together.
        max_queue: requests that may wait.
        max_wait: seconds that the first request waits for others.
        cache_bytes: adapters kept in memory.
        limits: of requests, documents and answers.
        grace: seconds that running requests get at the end.
        page: also offer a page to add documents and ask questions, at `/`.
        model_name: name of the model for clients; the last part of `--base_model` when empty.
        allowed_hosts: names by which clients may call the server, with commas between;
            *.example.com is all below one, * all. When empty those of loopback, or all where it
            listens elsewhere.
        allowed_origins: other sites whose pages may send requests, such as
            https://docs.example.com, with commas between; * is all.
        backend: who decodes: this process, or a vLLM server with this package's plugin on the same
            store (see prag_core/formats/README.md).
        backend_url: where it answers, such as http://127.0.0.1:8000; its key is VLLM_API_KEY.
    """
    try:  # deferred: installed with the extra `server` alone
        import uvicorn

        from prag_core.adapters.shards import open_store
        from prag_core.model.base_model import share_weights
        from prag_core.pipeline.parts import build_parametrizer
        from prag_core.pipeline.rag import assemble
        from prag_core.server.app import create_app
        from prag_core.server.engine import Engine
        from prag_core.server.guard import checked_hosts, checked_origins, is_loopback
        from prag_core.server.metrics import Metrics
        from prag_core.server.service import Service
        from prag_core.server.vllm_engine import VllmEngine
        from prag_core.training.lora_trainer import LoraTrainer
    except ImportError as error:
        raise ValueError(
            f"got no {error.name}, expected the packages of the server: pip install 'prag[server]'"
        ) from error
    api_key = api_key or os.environ.get(KEY_VARIABLE, "")
    # Who reaches the server may read and delete every document.
    if not api_key and not is_loopback(host):
        raise ValueError(
            f"got host {host} without an API key, expected one beyond loopback: set {KEY_VARIABLE}"
        )
    if setup.path == "auto":  # trained adapters of the store are served all the same
        setup = replace(setup, path="generated")
    access = (checked_hosts(allowed_hosts, host), checked_origins(allowed_origins))
    # A training takes seconds a document, too long for a request that adds one.
    if setup.path == "trained":
        raise ValueError(
            "got path trained, expected generated: documents are trained as jobs, see POST /v1/jobs"
        )
    if (backend == "vllm") != bool(backend_url):
        raise ValueError(
            f"got backend {backend} and backend_url {backend_url!r}, expected the address of a "
            "server with backend vllm alone: set both, or neither"
        )
    if backend == "vllm":
        _require_merge_by_name(setup.answering)
    if max_rows < 1 or max_queue < 1:
        raise ValueError(
            f"got max_rows {max_rows} and max_queue {max_queue}, expected 1 or more: correct them"
        )
    _require_port(host, port)  # before the model is loaded
    remote, key = None, os.environ.get("VLLM_API_KEY", "")
    if backend == "vllm":
        remote = VllmEngine(backend_url, key, max_rows, max_queue)
    name = model_name or setup.base_model.rstrip("/").rsplit("/", 1)[-1]
    write_json_logs()  # before anything is loaded, which logs too
    metrics = Metrics()
    with open_store(store) as opened:
        rag = assemble(setup, opened, reads_only=True)  # what lacks is said below
        _require_parametrizer(rag, setup)
        engine = remote or Engine(rag.base, max_rows, max_queue, max_wait, metrics.observe_step)
        # It trains while adapters are generated; taken before any is, whose hooks would come along.
        apart = share_weights(rag.base)

        def make_trainer() -> LoraTrainer:
            corpus = list(rag.documents.values())  # a file of pairs may name any of them
            return build_parametrizer(apart, replace(setup, path="trained"), opened, corpus)

        try:
            service = Service(rag, engine, make_trainer, cache_bytes, metrics.observe_document)
            app = create_app(service, metrics, name, api_key, limits, page, grace, *access)
            logs = {"log_config": None, "access_log": False}  # the guard writes a line a request
            config = uvicorn.Config(app, host, port, timeout_graceful_shutdown=int(grace), **logs)
            log = logging.getLogger("prag.server")
            log.info("%d documents, model %s", len(rag.documents), name)
            uvicorn.Server(config).run()
        finally:  # also where the service could not start: the thread would go on
            engine.close(grace)


def _require_parametrizer(rag: Any, setup: Setup) -> None:
    """Raise what keeps a pipeline from making adapters; FileNotFoundError: no hypernetwork."""
    # Not typed as the ParametricRAG that it is: the parser of the options would import it.
    if rag.parametrizer is not None:
        return
    from prag_core.pipeline.parts import build_parametrizer  # as in `serve`

    try:
        build_parametrizer(rag.base, setup, rag.store)
    except FileNotFoundError as error:
        if setup.path != "generated" or setup.hypernet != "auto":  # it was named
            raise
        problem = str(error).partition(", expected")[0]  # without its remedies
        raise FileNotFoundError(
            f"{problem}, expected one, which makes the adapters of what is added: name it with "
            "--hypernet, or train one (`hypernet fit --config configs/hypernet.yaml "
            "--model.base_model ...`); from adapters that were trained answers `prag answer --path "
            "trained`, and a vLLM by `prag store view`"
        ) from error


def _require_merge_by_name(options: AnswerOptions) -> None:
    """Raise ValueError for options that vLLM cannot follow, which knows adapters by name."""
    usual = AnswerOptions()
    for name in ("focus", "rank", "merge_method"):
        value, expected = getattr(options, name), getattr(usual, name)
        if value != expected:
            raise ValueError(
                f"got answering.{name} {value} with backend vllm, expected {expected}: it merges "
                "whole adapters by name"
            )


def _require_port(host: str, port: int) -> None:
    """Raise ValueError where nothing can listen: the port is taken, or the address not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"got {host}:{port}, where no server can listen ({error}), expected a free port of "
            "this machine: name another --port or --host, or end the program that has it"
        ) from error


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time, level, logger and message, and the fields of a request."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        fields = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
        # Of a request, the guard's fields; of all other records their text.
        fields |= getattr(record, "request", None) or {"message": record.getMessage()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def write_json_logs() -> None:
    """Let all loggers write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
