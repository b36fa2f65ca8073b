"""The API key: `Authorization: Bearer <key>`, compared in constant time."""

from __future__ import annotations

import hmac

from deploytool.st_server.errors import RequestError


def check(authorization: str | None, key: str | None) -> None:
    """Raises RequestError 401 where a key is set and the header does not carry it."""
    if key is None:
        return
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise _refused("this server needs an API key: Authorization: Bearer <key>")
    if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), key.encode()):
        raise _refused("the API key is not the right one")


def _refused(message: str) -> RequestError:
    return RequestError(
        401,
        message,
        code="invalid_api_key",
        kind="authentication_error",
        headers={"WWW-Authenticate": "Bearer"},
    )
