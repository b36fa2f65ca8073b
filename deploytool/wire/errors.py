"""What can go wrong when talking to an endpoint.

Unhealthy
└── EndpointError           talking to an endpoint failed; `status` where HTTP answered
    ├── Unreachable         no answer at all
    │   ├── Refused         nothing listens there, or the name is unknown
    │   ├── TimedOut        connected or not, no whole answer in time
    │   ├── Disconnected    the connection broke before the answer was whole
    │   └── TlsFailed       certificate or protocol
    ├── HttpError           an answer other than 2xx, with the server's own message
    └── BadAnswer           2xx, but not what was asked for
        ├── NotJson
        └── WrongShape
"""

from __future__ import annotations

from deploytool.errors import Unhealthy


class EndpointError(Unhealthy):
    """Talking to an endpoint failed. `status` is the HTTP status, None where there was no answer."""

    code = "endpoint_error"

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Unreachable(EndpointError):
    code = "unreachable"


class Refused(Unreachable):
    code = "refused"


class TimedOut(Unreachable):
    code = "timed_out"


class Disconnected(Unreachable):
    code = "disconnected"


class TlsFailed(Unreachable):
    code = "tls_failed"


class HttpError(EndpointError):
    """An answer other than 2xx. `reason` is the server's own message, None where it gave none."""

    code = "http_error"

    def __init__(self, message: str, *, status: int, reason: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, status=status)
        self.reason = reason


class BadAnswer(EndpointError):
    code = "bad_answer"


class NotJson(BadAnswer):
    code = "not_json"


class WrongShape(BadAnswer):
    code = "wrong_shape"


_STATUS_HINTS = {
    301: "the server points elsewhere: give the address that it names",
    307: "the server points elsewhere: give the address that it names",
    308: "the server points elsewhere: give the address that it names",
    400: "the request is not what the server takes: its message says why",
    401: "the server wants an API key: --api-key-file FILE or DEPLOYTOOL_API_KEY",
    403: "the API key is not allowed to do this",
    404: "no such path or model there: check the base URL and the model's name",
    413: "the request is too large for the server: send fewer or shorter texts",
    429: "the server is at its limit: try again later, or with less load",
    500: "the server failed: look at its log",
    503: "the server is not ready yet: wait until it has loaded the model",
}


def status_hint(status: int) -> str:
    """What to do about an HTTP status other than 2xx."""
    return _STATUS_HINTS.get(status, _STATUS_HINTS[500 if status >= 500 else 400])
