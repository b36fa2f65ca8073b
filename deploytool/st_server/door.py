"""In front of the HTTP application: what cannot be taken now is refused before anything is read of it.

Under ten times the load that a server sustains nine of ten answers are refusals, and what they cost is taken
from the goodput: so they are written once, and do not pass through the application.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from deploytool.st_server import auth, request_log
from deploytool.st_server.errors import RequestError
from deploytool.st_server.preparing import EMBED, RERANK
from deploytool.st_server.service import Service

ID = request_log.HEADER.encode()


class Door:
    """An ASGI application around another one."""

    def __init__(self, inner: ASGIApp, service: Service) -> None:
        self._inner = inner
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in (EMBED, RERANK) and scope["method"] == "POST":
            refusal = self._service.refusal()
            if refusal is not None:
                given = dict(scope["headers"])
                if self._has_key(given):
                    await self._refuse(refusal, scope["path"], given, send)
                    return
        await self._inner(scope, receive, send)

    def _has_key(self, given: dict[bytes, bytes]) -> bool:
        """Who comes without it is told so by the application."""
        try:
            auth.check(_text(given.get(b"authorization")), self._service.config.api_key)
        except RequestError:
            return False
        return True

    async def _refuse(self, refusal: RequestError, path: str, given: dict[bytes, bytes], send: Send) -> None:
        began = time.perf_counter()
        service = self._service
        identity = request_log.request_id(_text(given.get(ID)))
        head, body = _written(refusal)
        headers = [*head, (ID, identity.encode())]
        if service.state != "ready":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        seconds = time.perf_counter() - began
        error_class = refusal.code or f"http_{refusal.status}"
        service.metrics.failed(error_class)
        service.metrics.answered(path, refusal.status, seconds)
        if service.config.log_json:
            request_log.write(identity, path, refusal.status, seconds, error=error_class, texts=0, tokens=0)


@lru_cache(maxsize=128)
def _written(refusal: RequestError) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """Headers and body. The service gives the same object for the same refusal."""
    body = json.dumps(refusal.document()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items()), body


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
