"""Guard: what every request of the server passes.

First whose it is: the name by which the server was called, the page that a browser sent it from,
the key. Then the size limit; at the end a log line and metrics.

A page of any site can let its visitor's browser send requests to addresses that only the visitor
reaches. `Origin` says which page it was; a page whose own name resolves to this server's address
(DNS rebinding) is known by its name in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prag_core.server.fields import shown
from prag_core.server.metrics import Metrics
from prag_core.server.schemas import error_object

OPEN_PATHS = ("/healthz", "/readyz", "/", "/page.css", "/page.js")  # the page holds no data
# Others are counted together: a client's inventions must not grow the metrics.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PROBES = ("/healthz", "/readyz")  # asked by address, whatever the server's name
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/@:\[\]?#\\*]+?)\.?(?::(\d{1,5}))?")
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
PORTS = {"http": "80", "https": "443"}
log = logging.getLogger("prag.server")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        api_key: str,
        max_body_bytes: int,
        hosts: Sequence[str] = LOOPBACK_HOSTS,
        origins: Sequence[str] = (),
    ) -> None:
        """Wrap an application.

        Args:
            app: it.
            metrics: counts the requests.
            api_key: that they must bring; an empty one lets everyone in.
            max_body_bytes: of a request.
            hosts: names by which the server may be called (see `checked_hosts`).
            origins: of other sites' pages that may send requests (see `checked_origins`).
        """
        self.app, self.metrics, self.max_body_bytes = app, metrics, max_body_bytes
        self.hosts, self.origins = hosts, origins
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
        host = ",".join(headers.getlist("host"))  # two of them are none
        if scope["path"] not in PROBES and not is_allowed_host(host, self.hosts):
            message = (
                f"got a request to host {shown(host)}, expected one of {', '.join(self.hosts)}: "
                "allow it with --allowed_hosts"
            )
            return JSONResponse(error_object(message, "permission_error"), 403)
        origin = headers.get("origin", "").lower()
        # What it reads by GET, the browser does not show to a page of another origin.
        if origin and scope["method"] != "GET" and not self._is_allowed_origin(origin, host):
            message = (
                f"got a request from a page of {shown(origin)}, expected one of this server's: "
                "allow it with --allowed_origins"
            )
            return JSONResponse(error_object(message, "permission_error"), 403)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        scheme = "Bearer" if scheme.lower() == "bearer" else scheme  # in any case
        key = f"{scheme} {key}".encode("latin-1")
        known = not self.expected or hmac.compare_digest(key, self.expected)  # in constant time
        if not known and scope["path"] not in OPEN_PATHS:
            message = "got no valid API key, expected the header Authorization: Bearer KEY"
            error = error_object(message, "authentication_error", "invalid_api_key")
            return JSONResponse(error, 401)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            return JSONResponse(error_object(self._too_large, "invalid_request_error"), 413)
        return None

    def _is_allowed_origin(self, origin: str, host: str) -> bool:
        if "*" in self.origins or origin in self.origins:
            return True
        scheme, place = match.groups() if (match := ORIGIN.fullmatch(origin)) else ("", "")
        return bool(place) and _name_and_port(place, scheme) == _name_and_port(host, scheme)


def _name_and_port(host: str, scheme: str = "") -> tuple[str, str]:
    """Split a host as in `Host`: its name in lower case, its port or that of the scheme."""
    match = HOST.fullmatch(host.lower())
    name, port = match.groups() if match else ("", None)
    return name, port or PORTS.get(scheme, "")


def is_allowed_host(host: str, allowed: Sequence[str]) -> bool:
    """Tell whether a request may call the server so, whatever the port."""
    name, _ = _name_and_port(host)
    if "*" in allowed:
        return True
    # "*.example.com" is every name below example.com.
    return bool(name) and (name in allowed or any(_below(name, pattern) for pattern in allowed))


def _below(name: str, pattern: str) -> bool:
    return pattern.startswith("*.") and name.endswith(pattern[1:]) and len(name) >= len(pattern)


def checked_hosts(hosts: str, listening: str) -> tuple[str, ...]:
    """Return the names by which a server may be called.

    Args:
        hosts: names with commas between, `*.example.com` for all below one, `*` for all; none:
            those of loopback and the address itself where the server listens there, else all (its
            key is asked for).
        listening: address that the server listens on.

    Raises:
        ValueError: what is no name.
    """
    if not hosts:
        address = f"[{listening}]" if ":" in listening else listening.lower()
        return (*LOOPBACK_HOSTS, address) if is_loopback(listening) else ("*",)
    checked = []
    for host in _split(hosts):
        prefix = "*." if host.startswith("*.") else ""
        name, _ = _name_and_port(host.removeprefix("*."))
        if not name and host != "*":
            raise ValueError(
                f"got allowed host {host!r}, expected a name such as docs.example.com, "
                "*.example.com or *, without http://"
            )
        checked.append(prefix + name if name else host)
    return tuple(checked)


def checked_origins(origins: str) -> tuple[str, ...]:
    """Return the origins of pages that may send requests, as browsers write them.

    Raises:
        ValueError: what is no origin.
    """
    checked = tuple(origin.lower().rstrip("/") for origin in _split(origins))
    for origin in checked:
        match = ORIGIN.fullmatch(origin)
        if origin != "*" and not (match and HOST.fullmatch(match[2])):
            raise ValueError(
                f"got allowed origin {origin!r}, expected one such as https://docs.example.com or *"
            )
    return checked


def _split(texts: str) -> list[str]:
    return [text.strip() for text in texts.split(",") if text.strip()]


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to anything
        return host == "localhost"
