"""Waking up on time, and how late this process's loop is.

libev rounds a sleep up to whole milliseconds; a timerfd is right to some ten microseconds. Where there is
none, gevent's sleep is used.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import gevent

CLOCK_MONOTONIC = 1
ABSOLUTE = 1
NONBLOCK = 0o4000
PROBE_S = 0.02
MOST_LAGS = 1_000_000


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class PreciseTimer:
    """Sleeps of one greenlet until a time of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._libc: Any = None
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._fd = libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK)
            if self._fd >= 0:
                self._libc = libc
                self._hub = gevent.get_hub()
                self._watcher = self._hub.loop.io(self._fd, 1)

    def until(self, due_ns: int) -> None:
        """Return at `due_ns`, at once where it is past; others run meanwhile in either case."""
        left = due_ns - time.monotonic_ns()
        if left <= 0:
            gevent.sleep(0)
        elif self._libc is None:
            gevent.sleep(left / 1e9)
        else:
            spec = _Spec(0, 0, due_ns // 1_000_000_000, due_ns % 1_000_000_000)
            self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(spec), None)
            self._hub.wait(self._watcher)
            os.read(self._fd, 8)


class LagProbe:
    """How late a greenlet that wants to wake runs, every 20 ms: what the loop adds to what it times."""

    def __init__(self) -> None:
        self.lags_ns: list[int] = []
        self.on = False

    def run(self) -> None:
        timer = PreciseTimer()
        due = time.monotonic_ns()
        while True:
            due = max(due + int(PROBE_S * 1e9), time.monotonic_ns())
            timer.until(due)
            if self.on and len(self.lags_ns) < MOST_LAGS:
                self.lags_ns.append(time.monotonic_ns() - due)

    def summary(self) -> dict[str, float | int] | None:
        """P50, P99 and the highest, in ms; None where nothing was probed."""
        ordered = sorted(self.lags_ns)
        if not ordered:
            return None
        count = len(ordered)
        return {
            "p50": ordered[-(-count // 2) - 1] / 1e6,
            "p99": ordered[-(-count * 99 // 100) - 1] / 1e6,
            "max": ordered[-1] / 1e6,
            "probes": count,
        }
