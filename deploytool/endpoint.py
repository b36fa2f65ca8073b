"""A client of any OpenAI-compatible embeddings endpoint: a deployment of ours, a bare URL, a hosted API.

Errors are told apart (`deploytool.wire.errors` draws the tree) and never hold the API key. The client does
not retry: a probe that hides a failure proves nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from deploytool.errors import BadInput
from deploytool.wire.addresses import BaseUrl, checked_key
from deploytool.wire.answers import Embeddings, Encoding, Response, parse_embeddings, parse_models
from deploytool.wire.errors import (
    BadAnswer,
    Disconnected,
    EndpointError,
    HttpError,
    NotJson,
    Refused,
    TimedOut,
    TlsFailed,
    Unreachable,
    WrongShape,
    status_hint,
)

__all__ = [
    "BadAnswer",
    "BaseUrl",
    "Client",
    "Disconnected",
    "Embeddings",
    "EndpointError",
    "HttpError",
    "NotJson",
    "Refused",
    "Response",
    "TimedOut",
    "TlsFailed",
    "Unreachable",
    "WrongShape",
]

Inputs = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]

MAX_ANSWER_BYTES = 512 * 2**20
HIDDEN = "[key hidden]"


class Client:
    """Talks to one endpoint over kept-alive connections. Use as a context manager.

    `timeout_s` bounds one whole request, from connecting to the last byte. Proxies from the environment are
    used for other hosts only, never for this machine. Methods raise EndpointError.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        import httpx

        if timeout_s <= 0:
            raise BadInput(f"a time-out of {timeout_s} s leaves no time", hint="give more than 0 seconds")
        self.base = BaseUrl.parse(base_url)
        self.model = model
        self.timeout_s = timeout_s
        self._key = checked_key(api_key)
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s),
            trust_env=not self.base.loopback,
            follow_redirects=False,
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    def __repr__(self) -> str:
        return f"Client({self.base.root!r}, model={self.model!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def has_key(self) -> bool:
        return self._key is not None

    def embed(
        self, inputs: Inputs, *, encoding: Encoding = "float", dimensions: int | None = None
    ) -> Embeddings:
        """Vectors of the inputs, in their order: one text, several, one list of token ids, or several."""
        body: dict[str, Any] = {"model": self.model or "", "input": _plain(inputs)}
        if encoding != "float":  # the default everywhere; Voyage's API refuses the word
            body["encoding_format"] = encoding
        if dimensions is not None:
            body["dimensions"] = dimensions
        answer = self.request("POST", "/v1/embeddings", json=body)
        with self._redacted():
            return parse_embeddings(self._checked(answer).json(), _texts(inputs), answer.latency_ms)

    def models(self) -> list[str]:
        """The names that /v1/models lists."""
        answer = self._checked(self.request("GET", "/v1/models"))
        with self._redacted():
            return parse_models(answer.json())

    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        authorised: bool = True,
        *,
        content: bytes | None = None,
        key: str | None = None,
    ) -> Response:
        """One request, any status: `/v1/...` below the API's base, other paths below the server's root.

        `content` is sent as it stands, as JSON's media type; `key` stands for the client's own key;
        `authorised=False` sends none.
        """
        url = self.base.api + path.removeprefix("/v1") if path.startswith("/v1/") else self.base.root + path
        headers = {"content-type": "application/json"} if json is not None or content is not None else {}
        token = checked_key(key) if key is not None else self._key
        if authorised and token is not None:
            headers["authorization"] = f"Bearer {token}"
        body = _encoded(json) if json is not None else content
        started = time.perf_counter()
        return self._translated(url, lambda: self._exchange(method, url, headers, body, started))

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, started: float
    ) -> Response:
        """Reads the answer piece by piece, so that a server that drips bytes is bounded in time and size."""
        chunks: list[bytes] = []
        size = 0
        with self._http.stream(method, url, headers=headers, content=body) as answer:
            for chunk in answer.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if time.perf_counter() - started > self.timeout_s:
                    raise self._too_slow(url)
                if size > MAX_ANSWER_BYTES:
                    raise WrongShape(
                        f"{url} answered more than {MAX_ANSWER_BYTES // 2**20} MiB",
                        hint="this is no embeddings endpoint",
                        status=answer.status_code,
                    )
            latency_ms = (time.perf_counter() - started) * 1000
            return Response(answer.status_code, dict(answer.headers), b"".join(chunks), latency_ms)

    def _translated(self, url: str, exchange: Callable[[], Response]) -> Response:
        """httpx's errors as ours: what happened, in one sentence, and what to do."""
        import httpx

        try:
            return exchange()
        except httpx.TimeoutException as error:
            raise self._too_slow(url) from error
        except httpx.ConnectError as error:
            raise _connect_error(url, error) from error
        except httpx.InvalidURL as error:
            raise BadInput(
                f"{url} is no URL: {error}", hint="give a base URL such as http://127.0.0.1:8000"
            ) from error
        except httpx.HTTPError as error:
            raise Disconnected(
                f"{url} broke the connection before the answer was whole ({error or type(error).__name__})",
                hint="look whether the server died (deploytool ps, deploytool logs), or a proxy cut it off",
            ) from error

    def _too_slow(self, url: str) -> TimedOut:
        return TimedOut(
            f"{url} gave no whole answer within {self.timeout_s:g} s",
            hint="is it still loading, or overloaded? Look at its log, or allow more with --timeout",
        )

    def _checked(self, answer: Response) -> Response:
        if 200 <= answer.status < 300:
            return answer
        reason = answer.error_message()
        if reason is not None:
            reason = self.redact(reason)[:500]
        said = f": {reason}" if reason else " without a readable message"
        raise HttpError(
            f"answered {answer.status}{said}",
            status=answer.status,
            reason=reason,
            hint=status_hint(answer.status),
        )

    def redact(self, text: str) -> str:
        """`text` without the key, for servers that repeat it."""
        return text.replace(self._key, HIDDEN) if self._key else text

    @contextmanager
    def _redacted(self) -> Iterator[None]:
        """Takes the key out of an error that passes: its message may quote the server's answer."""
        try:
            yield
        except EndpointError as error:
            error.message = self.redact(error.message)
            error.args = (error.message,)
            raise


def _connect_error(url: str, error: Exception) -> Unreachable:
    text = str(error)
    if "SSL" in text or "TLS" in text or "certificate" in text:
        return TlsFailed(
            f"{url}: TLS failed ({text})",
            hint="http:// instead of https://? For a private authority set SSL_CERT_FILE",
        )
    return Refused(
        f"nothing answers at {url} ({text or type(error).__name__})",
        hint="is it running, and is the address right? `deploytool ps` lists deployments",
    )


def _encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8")


def _plain(inputs: Inputs) -> Any:
    if isinstance(inputs, str):
        return inputs
    return [part if isinstance(part, str | int) else list(part) for part in inputs]


def _texts(inputs: Inputs) -> int:
    """How many vectors the inputs ask for; one list of token ids is one text."""
    if isinstance(inputs, str):
        return 1
    return 1 if len(inputs) and isinstance(inputs[0], int) else len(inputs)
