"""What one load process is and does, and what the processes of a cell tell each other.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import lean_http
from precise_clock import LagProbe

HEADER = "start_ns,latency_ns,status,error,tokens,response_bytes,service_ns\n"
LIVE_LATENCIES = 512


@contextlib.contextmanager
def whole_or_nothing() -> Iterator[None]:
    """A load whose samples cannot be written ends at once: figures of a part of them would be wrong."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):  # its log may lie on the same full disk
            sys.stderr.write(f"cannot write the samples: {error}\n")
            sys.stderr.flush()
        os._exit(os.EX_IOERR)


class Shared:
    """What the processes of a cell tell each other: a header of times, and a slot for each process."""

    ALONE, ALL, TARGET, WINDOW, PLANNED, CLOSED, STOP = range(7)
    READY, STARTED, SUCCEEDED, PENDING, DUE = range(5)
    WIDTH = 8

    def __init__(self, path: str | None, rank: int, processes: int) -> None:
        """`path` None: nobody shares."""
        size = 8 * self.WIDTH * (1 + processes)
        if path is None:
            self.cells = memoryview(bytearray(size)).cast("q")
        else:
            with Path(path).open("r+b") as file:
                self.cells = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self.processes = processes
        self.slot = self.WIDTH * (1 + rank)

    def add(self, what: int, value: int) -> None:
        self.cells[self.slot + what] += value

    def put(self, what: int, value: int) -> None:
        self.cells[self.slot + what] = value

    def all(self, what: int) -> list[int]:
        first = self.WIDTH + what
        return [self.cells[first + self.WIDTH * rank] for rank in range(self.processes)]


@dataclass
class Tally:
    """What the live view shows of one process."""

    requests: int = 0
    errors: int = 0
    untimed: int = 0  # answers whose arrival the kernel did not tell
    latencies: deque[int] = field(default_factory=lambda: deque(maxlen=LIVE_LATENCIES))
    cpu_start_s: float = 0.0
    cpu_end_s: float = 0.0


@dataclass
class Load:
    """What one Locust process does: where it sends what, how, and where its samples go."""

    path: str = "/v1/embeddings"
    server: lean_http.Server = field(default_factory=lambda: lean_http.Server("http://127.0.0.1"))
    requests: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    batch: int = 1
    timeout_s: float = 60.0
    cell: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    shared: Shared = field(default_factory=lambda: Shared(None, 0, 1))
    tally: Tally = field(default_factory=Tally)
    probe: LagProbe = field(default_factory=LagProbe)
    lines: list[str] = field(default_factory=list)
    samples: Any = None  # a text file, or what takes its place
    remote: Any = None  # the worker or the master that this process is, in a load over several hosts
    sent: int = 0
    closing: bool = False
    keep_at: list[int] = field(default_factory=list)
    kept: list[tuple[int, bytes]] = field(default_factory=list)
    null: dict[str, float | int] = field(default_factory=dict)
    calibrating: bool = False  # `requests` are those of the server that only sends bytes

    @property
    def processes(self) -> int:
        return self.shared.processes

    def aim(self, url: str) -> None:
        """Make the requests for the server at `url`."""
        self.server = lean_http.Server(url)
        self.requests = [self.server.request(self.path, self.headers, body) for body in self.bodies]

    def next_index(self) -> int:
        """Which body is next; the processes of a cell take turns."""
        index = (self.sent * self.processes + self.rank) % len(self.requests)
        self.sent += 1
        return index

    def is_measured(self, start_ns: int) -> bool:
        cells = self.shared.cells
        window, closed = cells[Shared.WINDOW], cells[Shared.CLOSED]
        return 0 < window <= start_ns and (not closed or start_ns < closed)

    def open_samples(self, path: str) -> None:
        self.samples = Path(path).open("w", encoding="ascii")  # noqa: SIM115 - open as long as the process
        self.samples.write(HEADER)
        self.samples.flush()

    def flush(self) -> None:
        if self.samples is not None and self.lines:
            lines, self.lines = self.lines, []
            with whole_or_nothing():
                self.samples.write("".join(lines))
                self.samples.flush()


LOAD = Load()


def wait_for(what: int, step_s: float = 0.005) -> int:
    """The time in the header, once it is set and come."""
    cells = LOAD.shared.cells
    while not cells[what] or time.monotonic_ns() < cells[what]:
        gevent.sleep(step_s)
    return cells[what]
