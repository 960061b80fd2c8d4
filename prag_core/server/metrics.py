"""Metrics of the server, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prag_core.server.service import Service

# The histogram's bounds; `max_rows` is 32 unless somebody raises it.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        """Start from zero."""
        # Its own: the library's global one would count several servers of a process together.
        self.registry = CollectorRegistry()
        histogram = partial(Histogram, registry=self.registry)
        labels = ["method", "route", "status"]
        self.requests = Counter("prag_requests", "Requests", labels, registry=self.registry)
        self.latency = histogram("prag_request_seconds", "Time of a request", ["route"])
        rows = "Rows decoded together in a step"
        self.batch_rows = histogram("prag_batch_rows", rows, buckets=BATCH_SIZES)
        self.step_seconds = histogram("prag_decoding_step_seconds", "Time of a decoding step")
        self.document_seconds = histogram("prag_document_seconds", "Time of an adapter", ["path"])

    def observe_step(self, rows: int, seconds: float) -> None:
        """Note a decoding step."""
        self.batch_rows.observe(rows)
        self.step_seconds.observe(seconds)

    def observe_document(self, path: str, seconds: float) -> None:
        """Note an adapter."""
        self.document_seconds.labels(path).observe(seconds)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request."""
        self.requests.labels(method, route, status).inc()
        self.latency.labels(route).observe(seconds)

    def watch(self, service: Service) -> None:
        """Show what a service holds, read when the metrics are asked for."""
        # Without locks: a length that is a moment old does no harm.
        gauges: dict[str, Callable[[], float]] = {
            "prag_queue_rows": lambda: len(service.engine.waiting),
            "prag_decoding_rows": lambda: service.engine.decoding,
            "prag_documents": lambda: len(service.rag.documents),
            "prag_adapters_in_memory": lambda: len(service.cache),
            "prag_adapter_bytes_in_memory": lambda: service.cache.currsize,
        }
        for name, read in gauges.items():
            words = name.removeprefix("prag_").replace("_", " ")
            Gauge(name, words.capitalize(), registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)
