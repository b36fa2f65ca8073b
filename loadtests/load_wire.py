"""Messages between the master and the workers of a load, each proven to come from one who knows the token.

Locust's own protocol has no authentication. A worker begins no load, and a master gives out no text and takes
no sample, but by messages that are sealed with the token: HMAC-SHA256 over the session, the direction, the
kind, a number that only grows, and the body. Nothing is encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

Message = dict[str, Any]


class ForgedError(Exception):
    """A message that was not sealed by the other side of this session."""


def nonce() -> str:
    return secrets.token_hex(16)


def greeting(token: bytes, worker_nonce: str, master_nonce: str) -> str:
    """What proves to a worker that its master knows the token."""
    return _mac(token, b"hello", worker_nonce.encode(), master_nonce.encode())


def is_same(one: object, other: str) -> bool:
    return isinstance(one, str) and hmac.compare_digest(one.encode(), other.encode())


class Session:
    """One side of a session between a worker and its master."""

    def __init__(self, token: bytes, worker_nonce: str, master_nonce: str, *, is_master: bool) -> None:
        self.key = hmac.new(token, f"{worker_nonce} {master_nonce}".encode(), hashlib.sha256).digest()
        self.own, self.other = (b"master", b"worker") if is_master else (b"worker", b"master")
        self.sent = self.received = 0

    def seal(self, kind: str, body: bytes) -> Message:
        self.sent += 1
        return {"n": self.sent, "body": body, "mac": self._mac(self.own, kind, self.sent, body)}

    def open(self, kind: str, message: Any) -> bytes:
        """The body. ForgedError where it was sealed by nobody who knows the token, or was seen before."""
        try:
            number, body, mac = int(message["n"]), bytes(message["body"]), message["mac"]
        except (TypeError, KeyError, ValueError) as error:
            raise ForgedError(f"a {kind} message of another shape") from error
        if not is_same(mac, self._mac(self.other, kind, number, body)) or number <= self.received:
            raise ForgedError(f"a {kind} message that was not sealed with the token of this load")
        self.received = number
        return body

    def _mac(self, sender: bytes, kind: str, number: int, body: bytes) -> str:
        return _mac(self.key, sender, kind.encode(), b"%d" % number, body)


def _mac(key: bytes, *parts: bytes) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()
