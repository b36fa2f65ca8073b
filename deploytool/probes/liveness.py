"""Is a server alive? One GET by the standard library alone: cheap enough for `ps` to ask every server."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Probe:
    """`status` is None where nothing answered; `reason` says in words what happened."""

    ok: bool
    status: int | None
    reason: str


def alive(url: str, path: str = "/health", timeout_s: float = 2.0) -> Probe:
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
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Probe(False, None, _why(error, timeout_s))
    finally:
        connection.close()
    if 200 <= status < 300:
        return Probe(True, status, f"answered {status}")
    return Probe(False, status, f"answered {status}{' (not ready)' if status == 503 else ''}")


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
