"""Where an endpoint is, and the key that it wants, as a person gives them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from deploytool.errors import BadInput

_VERSION = re.compile(r"v\d+[a-z0-9]*")


@dataclass(frozen=True)
class BaseUrl:
    """An endpoint's address. `root` has the server's own paths (/health), `api` those of OpenAI's API.

    `http://h:p`, `http://h:p/v1`, either with a slash, and `http://h:p/v1/embeddings` are the same place. A
    path that already names an API version (`https://host/v1beta/openai`) is taken as it is.
    """

    root: str
    api: str

    @property
    def embeddings(self) -> str:
        return f"{self.api}/embeddings"

    @property
    def loopback(self) -> bool:
        host = urlsplit(self.root).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @classmethod
    def parse(cls, text: str) -> BaseUrl:
        """Reads what a person gives; BadInput says what is wrong with it."""
        parts = _split(text if "://" in text else f"http://{text}", text)
        path = parts.path.rstrip("/").removesuffix("/embeddings").rstrip("/")
        place = f"{parts.scheme}://{parts.netloc}"
        if not any(_VERSION.fullmatch(word) for word in path.split("/")):
            return cls(root=place + path, api=f"{place}{path}/v1")
        return cls(root=place + path.removesuffix("/v1"), api=place + path)


def _split(url: str, shown: str) -> SplitResult:
    hint = "give a base URL such as http://127.0.0.1:8000 or http://[::1]:8000/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadInput(f"{_without_userinfo(shown)!r} is no URL: {error}", hint=hint) from error
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            "the URL holds a user name or password",
            hint="leave it out; give an API key with --api-key-file or DEPLOYTOOL_API_KEY",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or " " in url:
        raise BadInput(f"{shown!r} is no http or https URL", hint=hint)
    if parts.query or parts.fragment:
        raise BadInput(f"{shown!r} has a query or a fragment, which a base URL has not", hint=hint)
    return parts


def _without_userinfo(text: str) -> str:
    return re.sub(r"//[^/]*@", "//", text)


def checked_key(key: str | None) -> str | None:
    """The key as it can stand in a header; BadInput (which does not show it) where it cannot."""
    if key is None:
        return None
    stripped = key.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise BadInput(
            "the API key is empty or holds characters that no key has",
            hint="the file or variable must hold the key alone, on one line",
        )
    return stripped
