"""Guard: what every request of the server passes: id, key, size limit, log line, metrics."""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prag_core.server.metrics import Metrics
from prag_core.server.schemas import error_object

OPEN_PATHS = ("/healthz", "/readyz", "/", "/page.css", "/page.js")  # the page holds no data
# Others are counted together: a client's inventions must not grow the metrics.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
log = logging.getLogger("prag.server")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str, max_body_bytes: int) -> None:
        """Wrap an application; an empty key lets everyone in."""
        self.app, self.metrics, self.max_body_bytes = app, metrics, max_body_bytes
        self._too_large = f"got a larger body than {max_body_bytes} bytes: send less at one time"
        self.expected = f"Bearer {api_key}".encode() if api_key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, pass it on, and write it down."""
        if scope["type"] != "http":  # start and end of the server
            await self.app(scope, receive, send)
            return
        # 500 unless a response begins.
        request_id, began, status = secrets.token_hex(8), time.perf_counter(), 500
        started, received = False, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            # Counted as it comes: a chunked body names no length.
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        async def marked(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (refusal or self.app)(scope, counted, marked)
        except Exception:
            log.exception("request %s failed", request_id)
            if not started:  # else half of a response was sent, and nothing can be said any more
                error = error_object("the server failed; its log says why", "server_error")
                await JSONResponse(error, 500)(scope, receive, marked)
        finally:
            seconds = time.perf_counter() - began
            # The pattern, not the path, which would make a metric of every document.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.observe_request(method, route, status, seconds)
            line = {"id": request_id, "method": scope["method"], "route": route, "status": status}
            log.info("request", extra={"request": {**line, "seconds": round(seconds, 4)}})

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        key = headers.get("authorization", "").encode("latin-1")
        known = not self.expected or hmac.compare_digest(key, self.expected)  # in constant time
        if not known and scope["path"] not in OPEN_PATHS:
            message = "got no valid API key, expected the header Authorization: Bearer KEY"
            error = error_object(message, "authentication_error", "invalid_api_key")
            return JSONResponse(error, 401)
        origin = headers.get("origin")
        # A page of another site may send a user's browser here, past the network that guards us.
        if origin and urlsplit(origin).netloc != headers.get("host") and scope["method"] != "GET":
            message = "got a request from another site's page, expected one from this server's"
            return JSONResponse(error_object(message, "permission_error"), 403)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            return JSONResponse(error_object(self._too_large, "invalid_request_error"), 413)
        return None
