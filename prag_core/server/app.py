"""Server: an HTTP application over a `Service`.

/v1/documents  /v1/jobs   documents are added, listed and removed; trainings followed
/v1/chat/completions  /v1/completions  /v1/models   answers, as in OpenAI's API
/healthz  /readyz  /metrics
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from prag_core.files import ROOMLESS
from prag_core.server.completion_routes import CompletionEndpoints
from prag_core.server.document_routes import DocumentEndpoints
from prag_core.server.engine import ClosedError, QueueFullError
from prag_core.server.fields import NO_MODEL, FieldError, request_error
from prag_core.server.guard import LOOPBACK_HOSTS, Guard
from prag_core.server.limits import Limits
from prag_core.server.metrics import Metrics
from prag_core.server.schemas import error_object
from prag_core.server.service import Service
from prag_core.server.vllm_engine import BackendError

log = logging.getLogger(__name__)
READONLY = (errno.EROFS, errno.EACCES, errno.EPERM)  # of the store: the server may be meant so
REFUSED = "got a change, expected reads: this server may not write to its store"
SILENT = "got no answer from the server's store or search index; its log says why"
RETRY_AFTER = "1"  # seconds: about what a waiting answer takes to make room
PAGE_TYPES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
# What `Service` and `Engine` raise while a request runs; what is wrong with the request itself is
# an HTTPException where it is read.
FAILURES = {  # status, type, message (None: the error's own)
    QueueFullError: (429, "rate_limit_error", None),
    ClosedError: (503, "server_error", "the server is shutting down: try again later"),
    TimeoutError: (504, "timeout_error", None),
    OSError: (507, "server_error", "got no room to keep this, expected free space on the server"),
}


def create_app(
    service: Service,
    metrics: Metrics,
    model: str,
    api_key: str = "",
    limits: Limits | None = None,
    page: bool = False,
    grace: float = 30.0,
    allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
    allowed_origins: Sequence[str] = (),
) -> FastAPI:
    """Build the application.

    Args:
        service: what it serves.
        metrics: what it counts in.
        model: name under which the base model is offered.
        api_key: key that all but the health endpoints ask for; empty: none.
        limits: what it takes.
        page: offer the page at `/`.
        grace: seconds that requests get at the end.
        allowed_hosts: names by which the server may be called (see `guard.checked_hosts`).
        allowed_origins: of other sites' pages that may send requests.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        # In a thread: the requests that are being answered need the event loop to send their text.
        await asyncio.to_thread(service.close, grace)

    # Without FastAPI's pages of documentation: they load scripts from elsewhere.
    app = FastAPI(title="prag", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    limits = limits or Limits()
    metrics.watch(service)
    DocumentEndpoints(service, model, limits).register(app)
    CompletionEndpoints(service, model, limits).register(app)

    @app.get("/healthz")
    async def healthy() -> dict:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Say whether questions are answered."""
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "closing"}, 200 if alive else 503)

    @app.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Return Prometheus' metrics."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    if page:
        for route in PAGE_TYPES:
            app.add_api_route(route, _page_file(route), include_in_schema=False)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(FieldError, _field_error)
    for kind in (*FAILURES, BackendError):
        app.add_exception_handler(kind, _failure)
    access = (api_key, limits.max_body_bytes, allowed_hosts, allowed_origins)
    app.add_middleware(Guard, metrics, *access)
    if allowed_origins:  # around the guard: a browser asks whether it may send a key without one
        anything = {"allow_methods": ["*"], "allow_headers": ["*"]}
        app.add_middleware(CORSMiddleware, allow_origins=list(allowed_origins), **anything)
    return app


def _page_file(route: str) -> Callable[[], Awaitable[Response]]:
    name = route.removeprefix("/") or "index.html"
    content = files("prag_core").joinpath("resources", "page", name).read_bytes()
    # Nothing from other sites, and no copy of an older release of the page.
    headers = {"content-security-policy": "default-src 'self'", "cache-control": "no-cache"}

    async def show() -> Response:
        return Response(content, media_type=PAGE_TYPES[route], headers=headers)

    return show


async def _http_error(http: HttpRequest, error: HTTPException) -> JSONResponse:
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return JSONResponse(error_object(str(error.detail), kind), error.status_code, error.headers)


async def _invalid(http: HttpRequest, error: RequestValidationError) -> JSONResponse:
    return await _field_error(http, request_error(error.errors(), error.body))


async def _field_error(http: HttpRequest, error: FieldError) -> JSONResponse:
    status = 404 if error.code == NO_MODEL else 400
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return JSONResponse(error_object(str(error), kind, error.code, error.param), status)


async def _failure(http: HttpRequest, error: Exception) -> JSONResponse:
    if isinstance(error, BackendError):
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(error.status)
        return JSONResponse(error_object(str(error), kind or "server_error"), error.status)
    cause = next(cause for cause in FAILURES if isinstance(error, cause))  # TimeoutError first
    status, kind, message = FAILURES[cause]
    if cause is TimeoutError and error.errno:  # ETIMEDOUT, in words that name its places
        log.error("a request failed", exc_info=error)
        status, kind, message = 503, "server_error", SILENT
    elif cause is OSError and error.errno in READONLY:
        log.warning("a change was refused: %s", error)
        status, kind, message = 403, "permission_error", REFUSED
    elif cause is OSError:
        log.error("a request failed", exc_info=error)
        if error.errno not in ROOMLESS:  # the server's own fault
            status, message = 500, "the server failed; its log says why"
    headers = {"retry-after": RETRY_AFTER} if status in (429, 503) else None
    return JSONResponse(error_object(message or str(error), kind), status, headers)
