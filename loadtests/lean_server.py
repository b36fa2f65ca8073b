"""Where the requests of a load go: the address, resolved once, and a request as it goes over the wire."""

from __future__ import annotations

import socket as patched_socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import gevent.ssl


class Broken(Exception):
    """No whole answer. `kind`: timeout, refused, reset, tls, connect or bad_body (it is no HTTP)."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Server:
    """Where requests go: resolved once. `authority` is what the Host header says."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.tls = parts.scheme == "https"
        self.name = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.authority = parts.netloc.rpartition("@")[2]
        self.context: Any = _context() if self.tls else None
        self._addresses: list[Any] = []

    def addresses(self) -> list[Any]:
        if not self._addresses:
            try:
                self._addresses = patched_socket.getaddrinfo(
                    self.name, self.port, type=patched_socket.SOCK_STREAM
                )
            except OSError as error:
                raise Broken("connect", str(error)) from error
        return self._addresses

    def request(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """A POST as it goes over the wire: made before the load, sent as it is."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode("latin-1") + body


def _context() -> Any:
    """As `ssl.create_default_context`, of gevent's kind: the system's authorities, or SSL_CERT_FILE's."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context
