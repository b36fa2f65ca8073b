"""What clients and launchers are told.

    StartError                 the server cannot start or go on: printed as "fatal: ...", exit code
    ├── BadUsage (2)           a flag or an environment variable
    ├── DoesNotFit (3)         out of memory while loading or warming up
    ├── NotServable (4)        the vectors would be wrong, or the model is of another kind
    ├── LoadFailed (5)         anything else that went wrong while loading
    ├── PortTaken (7)
    └── Missing (8)            a package, the model's files, the device

    RequestError               an answer in OpenAI's error shape, with its HTTP status

    BackendError               raised by a backend's `embed`
    ├── OutOfMemory            the batch is split and retried
    └── DeviceLost             nothing can be computed any more: the process ends

The exit codes are those of the deploytool command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class StartError(Exception):
    """A fatal condition: one line for the launcher, one hint, one exit code."""

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = hint


class BadUsage(StartError):
    exit_code = 2


class DoesNotFit(StartError):
    exit_code = 3


class NotServable(StartError):
    exit_code = 4


class LoadFailed(StartError):
    exit_code = 5


class PortTaken(StartError):
    exit_code = 7


class Missing(StartError):
    exit_code = 8


class BackendError(Exception):
    """A batch could not be computed."""


class OutOfMemory(BackendError):
    """The batch was too large for the memory that is free now."""


class DeviceLost(BackendError):
    """The device's state is broken for good (CUDA: a sticky error)."""


class RequestError(Exception):
    """An answer that is not 200. `kind` and `code` are OpenAI's `type` and `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """OpenAI's error shape."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> RequestError:
    return RequestError(400, message, param=param, code=code)


def overloaded(message: str, retry_after_s: int) -> RequestError:
    return RequestError(
        429,
        message,
        code="queue_full",
        kind="rate_limit_error",
        headers={"Retry-After": str(retry_after_s)},
    )


def unavailable(message: str, *, code: str, retry_after_s: int = 5) -> RequestError:
    return RequestError(503, message, code=code, headers={"Retry-After": str(retry_after_s)})
