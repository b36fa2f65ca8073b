"""Is a server alive? One GET by the standard library alone: cheap enough for `ps` to ask every server."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 65536


@dataclass(frozen=True)
class Probe:
    """`status` is None where nothing answered; `reason` says in words what happened.

    `document`: the JSON object answered, where it was asked for and is one; else empty.
    """

    ok: bool
    status: int | None
    reason: str
    document: dict[str, Any] = field(default_factory=dict)


def alive(url: str, path: str = "/health", timeout_s: float = 2.0, *, read: bool = False) -> Probe:
    """GET url + path; ok where it answers 2xx. Never raises for what a server or network does.

    SGLang's /health takes at least a second: give it more than that.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return Probe(False, None, f"{url!r} is no URL: {error}")
    if not host:
        return Probe(False, None, f"{url!r} is no URL: it names no host")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers={"Connection": "close"})
        answer = connection.getresponse()
        status, body = answer.status, answer.read(MOST_BYTES) if read else b""
    except (OSError, http.client.HTTPException) as error:
        return Probe(False, None, _why(error, timeout_s))
    finally:
        connection.close()
    if 200 <= status < 300:
        return Probe(True, status, f"answered {status}", _object(body))
    return Probe(False, status, f"answered {status}{' (not ready)' if status == 503 else ''}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body) if body else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _why(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, http.client.HTTPException):
        return f"no HTTP answer: {error or type(error).__name__}"
    return f"cannot connect: {getattr(error, 'strerror', None) or error}"
