"""Tries a request again where that can help: busy servers, broken connections; with growing pauses."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from deploytool.endpoint import Disconnected, EndpointError, HttpError, Refused, TlsFailed, Unreachable
from deploytool.evaluation.wire import Busy

T = TypeVar("T")

QUIET_S = 1.0


def _nobody(line: str) -> None:
    """Watches nothing."""
    del line


class Stopped(Exception):
    """The evaluation is being given up: no request is begun or tried again."""


@dataclass
class Retries:
    """At most `attempts` tries, pauses of base_s x 2^n with jitter; a server's Retry-After is obeyed.

    `sleep` returns early and the try ends in Stopped once `stop` is set.
    """

    attempts: int = 6
    base_s: float = 0.5
    longest_s: float = 30.0
    longest_asked_s: float = 120.0
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Callable[[str], None] = _nobody
    sleep: Callable[[float], None] | None = None
    count: int = 0
    _told: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, request: Callable[[], T]) -> T:
        """The request's result, or its last error."""
        for attempt in range(1, self.attempts + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                return request()
            except EndpointError as error:
                pause = self._pause(error, attempt)
                if pause is None:
                    raise
                self._tell(f"{error.message}; trying again in {pause:.1f} s")
                self._wait(pause)
        raise AssertionError  # the last attempt returned or raised

    def _tell(self, line: str) -> None:
        """Not once for each connection: they fail together."""
        now = time.monotonic()
        with self._lock:
            self.count += 1
            quiet = now - self._told < QUIET_S
            if not quiet:
                self._told = now
        if not quiet:
            self.watch(line)

    def _pause(self, error: EndpointError, attempt: int) -> float | None:
        """Seconds until the next try, None where there is none."""
        most = self.attempts
        if isinstance(error, Refused | Disconnected):
            most = min(most, 4)  # it died, and will not be back soon
        elif isinstance(error, HttpError) and not isinstance(error, Busy):
            if error.status not in (408, 409, 500, 502, 504):
                return None
            most = min(most, 3)
        elif isinstance(error, TlsFailed) or not isinstance(error, Busy | Unreachable):
            return None
        if attempt >= most:
            return None
        asked: float | None = error.wait_s if isinstance(error, Busy) else None
        if asked is not None:
            return asked if asked <= self.longest_asked_s else None
        pause = min(self.longest_s, self.base_s * 2.0 ** (attempt - 1))
        return pause * (1 + random.random() / 4)  # noqa: S311 - no secret

    def _wait(self, seconds: float) -> None:
        if self.sleep is not None:
            self.sleep(seconds)
        elif self.stop.wait(seconds):
            raise Stopped
