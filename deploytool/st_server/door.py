"""In front of the HTTP application: what cannot be taken now is refused before anything is read of it.

Under ten times the load that a server sustains nine of ten answers are refusals, and what they cost is taken
from the goodput. So they are written once and do not pass through the application; and a request that came in
one piece, as most do, not through uvicorn either, which alone takes ten times as long as the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploytool.st_server import auth, request_log
from deploytool.st_server.errors import RequestError
from deploytool.st_server.preparing import EMBED, RERANK
from deploytool.st_server.service import Service

ID = request_log.HEADER.encode()
GUARDED = (EMBED, RERANK)
REQUEST_LINES = {f"POST {path} HTTP/1.1".encode(): path for path in GUARDED}
LONGEST_HEAD = 4096  # bytes, of what is looked at here
SPECIAL = (b"expect", b"transfer-encoding", b"upgrade")  # more is to be done than to answer

Headers = dict[bytes, bytes]


class Refusal(NamedTuple):
    """An answer to be sent."""

    reason: RequestError
    identity: bytes
    closes: bool

    def parts(self) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body."""
        headers, _, body = _written(self.reason)
        return [*headers, (ID, self.identity), *([(b"connection", b"close")] if self.closes else [])], body

    def message(self, more: Iterable[tuple[bytes, bytes]]) -> bytes:
        """All of it, with more headers. The connection stays."""
        _, head, body = _written(self.reason)
        return b"".join((head, _lines([], more), ID, b": ", self.identity, b"\r\n\r\n", body))


class Door:
    """An ASGI application around another one."""

    def __init__(self, inner: ASGIApp, service: Service) -> None:
        self._inner = inner
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in GUARDED and scope["method"] == "POST":
            refusal = refuse(self._service, scope["path"], dict(scope["headers"]))
            if refusal is not None:
                headers, body = refusal.parts()
                await send(
                    {"type": "http.response.start", "status": refusal.reason.status, "headers": headers}
                )
                await send({"type": "http.response.body", "body": body})
                return
        await self._inner(scope, receive, send)


def protocol(service: Service) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which refuses requests that it has not parsed."""
    # Let in, of one reading of all connections: only after it do they come to the queue and make it full.
    entering: list[None] = []

    class Protocol(HttpToolsProtocol):
        inside = False  # a request, of which more is to come
        refused_at = -math.inf  # the loop's time

        def data_received(self, data: bytes) -> None:
            asked = None if self.inside or not self._is_idle() else whole_request(data)
            if asked is None or service.state != "ready":
                super().data_received(data)
            elif (refusal := refuse(service, *asked, before=len(entering))) is not None:
                self.transport.write(refusal.message(self.server_state.default_headers))
                self._answered()
            else:
                if not entering:
                    self.loop.call_soon(entering.clear)
                entering.append(None)
                super().data_received(data)

        def on_message_begin(self) -> None:
            self.inside = True
            super().on_message_begin()

        def on_message_complete(self) -> None:
            self.inside = False
            super().on_message_complete()

        def timeout_keep_alive_handler(self) -> None:
            self._keep_alive(self.refused_at + self.timeout_keep_alive - self.loop.time())

        def _is_idle(self) -> bool:
            answered = self.cycle is None or self.cycle.response_complete
            return answered and not self.flow.write_paused and not self.transport.is_closing()

        def _answered(self) -> None:
            """As `on_response_complete`. A timer costs more than the rest: one that runs is prolonged as it ends."""
            self.server_state.total_requests += 1
            self.refused_at = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._keep_alive(self.timeout_keep_alive)

        def _keep_alive(self, left_s: float) -> None:
            if left_s > 0:
                self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
            else:
                super().timeout_keep_alive_handler()

    return Protocol


def refuse(service: Service, path: str, given: Headers, before: int = 0) -> Refusal | None:
    """The answer to a request that cannot be taken now, counted and logged; None where it is the application's.

    `before`: requests that are on their way to the queue.
    """
    reason = service.refusal(1 + before)
    if reason is None or not _has_key(service, given):
        return None
    began = time.perf_counter()
    identity = request_log.request_id(_text(given.get(ID)))
    seconds = time.perf_counter() - began
    error_class = reason.code or f"http_{reason.status}"
    service.metrics.failed(error_class)
    service.metrics.answered(path, reason.status, seconds)
    if service.config.log_json:
        request_log.write(identity, path, reason.status, seconds, error=error_class, texts=0, tokens=0)
    return Refusal(reason, identity.encode(), closes=service.state != "ready")


def whole_request(data: bytes) -> tuple[str, Headers] | None:
    """Path and headers where `data` is one plain request to be refused or computed, from its first to its last byte.

    None where it is anything else, or could be: the parser is asked then.
    """
    end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD)
    read = None if end < 0 else _head(data[:end])
    if read is None:
        return None
    path, headers, length = read
    return (path, headers) if end + 4 + length == len(data) else None


@lru_cache(maxsize=512)  # a client sends the same one again and again
def _head(head: bytes) -> tuple[str, Headers, int] | None:
    first, *lines = head.split(b"\r\n")
    path = REQUEST_LINES.get(first)
    if path is None or not head.count(b"\r") == head.count(b"\n") == len(lines):
        return None
    headers: Headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not _is_token(name) or name in headers or name in SPECIAL:
            return None
        headers[name] = value.strip(b" \t")
    length = headers.get(b"content-length", b"")
    stays = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    return (path, headers, int(length)) if stays and length.isdigit() else None


def _is_token(name: bytes) -> bool:
    return name.replace(b"-", b"").replace(b"_", b"").isalnum()


def _has_key(service: Service, given: Headers) -> bool:
    """Who comes without it is told so by the application."""
    try:
        auth.check(_text(given.get(b"authorization")), service.config.api_key)
    except RequestError:
        return False
    return True


@lru_cache(maxsize=128)
def _written(reason: RequestError) -> tuple[tuple[tuple[bytes, bytes], ...], bytes, bytes]:
    """Headers, the same with the status line as one text, body. The service gives one object for equal refusals."""
    status = HTTPStatus(reason.status)
    body = json.dumps(reason.document()).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), **reason.headers}
    headers = tuple((name.lower().encode(), value.encode()) for name, value in given.items())
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    return headers, _lines(lines, headers), body


def _lines(first: list[bytes], headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\r\n".join([*first, *(name + b": " + value for name, value in headers), b""])


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
