"""Metrics of the server, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

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
        self.requests = Counter(
            "prag_requests", "Requests", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "prag_request_seconds", "Time of a request", ["route"], registry=self.registry
        )
        self.batch_rows = Histogram(
            "prag_batch_rows", "Rows decoded together in a step", buckets=BATCH_SIZES,
            registry=self.registry,
        )  # fmt: skip
        self.step_seconds = Histogram(
            "prag_decoding_step_seconds", "Time of a decoding step", registry=self.registry
        )
        self.document_seconds = Histogram(
            "prag_document_seconds", "Time to make an adapter", ["path"], registry=self.registry
        )

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
            "prag_decoding_rows": lambda: len(service.engine.batch.rows),
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
