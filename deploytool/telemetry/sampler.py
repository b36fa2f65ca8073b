"""Memory over time: a thread that reads the cards and the server's processes on a fixed schedule.

Sampling goes on whatever happens to the server or the cards; what is missing is said with the phase in which
it was missing. Times are CLOCK_MONOTONIC, as in the load generator's samples on the same machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from deploytool.records import PhaseMemory
from deploytool.telemetry.card_sampling import NOBODY, Cards
from deploytool.telemetry.processes import ProcessTree
from deploytool.telemetry.readings import Tally, Timeline

# A tick counts as missed when the next reading comes this many intervals after the last.
GAP_INTERVALS = 2.0
NO_CARD = "the server uses no card"
# A driver that hangs shall not hang the run: what was read is kept, the thread is left behind.
HANGING_S = 2.0


class Gap(NamedTuple):
    """A time without a reading: the machine was too busy, or the driver slow to answer."""

    start_ns: int
    duration_ms: float


class MemorySampler:
    """Samples GPU and process memory, utilisation and power every `interval_s` (at most 0.1).

    pid: root of the server's process tree on this host, None where the server is not ours to look at.
    devices: NVML indices of its cards; None: every card of this machine; empty: it uses none, and
    `no_devices_reason` says why (it stands where memory of cards would). also: roots of its replicas.
    """

    def __init__(
        self,
        pid: int | None,
        devices: Sequence[int] | None,
        interval_s: float = 0.1,
        *,
        no_devices_reason: str = NO_CARD,
        also: Sequence[int] = (),
    ) -> None:
        if not 0 < interval_s <= 0.1:
            raise ValueError("interval_s must be above 0 and at most 0.1")
        self._interval_ns = round(interval_s * 1e9)
        self._tree = None if pid is None else ProcessTree(pid, also=also)
        self._rss_reason = NOBODY if pid is None else f"the server's process {pid} is gone"
        self._cards = Cards(devices, no_devices_reason, self._tree)
        self._timeline = Timeline()
        self._tallies: dict[str, Tally] = {}
        self._phase = ""
        self._gaps: list[Gap] = []
        self._last_ns: int | None = None
        self._started_ns = 0
        self._busy_ns = 0
        self._readings = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failure: str | None = None

    def start(self, phase: str = "idle") -> None:
        """Begin sampling. The first reading is taken at once."""
        if self._thread is not None:
            raise RuntimeError("the sampler was started before")
        self.phase(phase)
        self._started_ns = time.monotonic_ns()
        self._wake.clear()  # the thread's first reading is the phase's first
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Readings from now on belong to `name`; the first one is taken at once."""
        with self._lock:
            self._phase = name
            self._tallies.setdefault(name, Tally(name))
        self._wake.set()

    def stop(self) -> None:
        """Take a last reading and end. What was read stays; stopping twice is fine."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(HANGING_S)
            if self._thread.is_alive():
                self.failure = f"the memory sampler got no answer for {HANGING_S:g} s"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def rows(self) -> list[dict[str, Any]]:
        """One row for each reading and card, with the columns of `samples.MEMORY`."""
        with self._lock:
            return self._timeline.rows()

    def summary(self) -> list[PhaseMemory]:
        """Every phase, in the order in which they first began."""
        with self._lock:
            return [tally.summary(self.failure) for tally in self._tallies.values()]

    def peak(self, phase: str) -> PhaseMemory:
        """One phase so far; with no samples where it never began.

        The time since the last reading counts as a gap: a sampler that died or hangs leaves no later one.
        """
        with self._lock:
            tally = self._tallies.get(phase, Tally(phase))
            last_ns = self._last_ns or self._started_ns
            if last_ns and not self._stopping:
                since_ns = time.monotonic_ns() - last_ns
                if since_ns > GAP_INTERVALS * self._interval_ns:
                    tally.gap(since_ns / 1e6)
            return tally.summary(self.failure)

    def gaps(self) -> list[Gap]:
        """Times longer than two intervals without a reading."""
        with self._lock:
            return list(self._gaps)

    @property
    def cost_us(self) -> float | None:
        """Processor time of one reading on average, in µs, without the first, which opens the driver."""
        return self._busy_ns / (self._readings - 1) / 1000 if self._readings > 1 else None

    def _run(self) -> None:
        due = time.monotonic_ns()
        try:
            while not self._stopping:
                self.read()
                now = time.monotonic_ns()
                if now >= due:
                    due += self._interval_ns * (1 + (now - due) // self._interval_ns)
                self._wake.wait((due - now) / 1e9)
                self._wake.clear()
            self.read()
        except Exception as error:  # the run that is measured must not end with its sampler
            self.failure = f"the memory sampler failed: {type(error).__name__}: {error}"

    def read(self) -> None:
        """Take one reading into the present phase; `start` does so on a schedule."""
        began = time.monotonic_ns()
        busy = time.thread_time_ns()
        with self._lock:
            phase = self._phase
        readings = self._cards.read()
        rss = self._tree.rss_mib() if self._tree else None
        with self._lock:
            tally = self._tallies[phase]
            self._note_gap(began, tally)
            self._timeline.add(began, phase, readings, rss)
            tally.add(readings, rss, self._rss_reason)
            self._readings += 1
            if self._readings > 1:
                self._busy_ns += time.thread_time_ns() - busy

    def _note_gap(self, now: int, tally: Tally) -> None:
        if self._last_ns is not None and now - self._last_ns > GAP_INTERVALS * self._interval_ns:
            milliseconds = (now - self._last_ns) / 1e6
            self._gaps.append(Gap(self._last_ns, milliseconds))
            tally.gap(milliseconds)
        self._last_ns = now


def read_now(
    pid: int | None, devices: Sequence[int] | None, *, no_devices_reason: str = NO_CARD
) -> PhaseMemory:
    """One reading, at once and without a thread; arguments as for `MemorySampler`."""
    sampler = MemorySampler(pid, devices, no_devices_reason=no_devices_reason)
    sampler.phase("now")
    sampler.read()
    return sampler.peak("now")
