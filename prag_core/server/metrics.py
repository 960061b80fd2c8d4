"""Metrics of the server, in Prometheus' format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from prag_core.server.service import Service

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        """Start from zero."""
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
        self.service: Service | None = None

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

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        service, lines = self.service, []
        gauges = {
            "prag_queue_rows": len(service.engine.waiting),
            "prag_decoding_rows": len(service.engine.batch.rows),
            "prag_documents": len(service.rag.documents),
            "prag_adapters_in_memory": len(service.cache),
            "prag_adapter_bytes_in_memory": service.cache.currsize,
        }
        for name, value in gauges.items():
            lines.append(f"# TYPE {name} gauge\n{name} {value}\n")
        return generate_latest(self.registry) + "".join(lines).encode()
