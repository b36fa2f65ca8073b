"""What the load processes of one cell are to do, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deploytool.records import ClientProcess, NullCalibration, cell_name

START_ALLOWANCE_S = 60.0
NULL_S = 1.0  # as in loadtests/load_cell.py
LAST_ANSWERS_S = 5.0
SLACK_S = 10.0


@dataclass(frozen=True)
class Spread:
    """A load from several hosts: where its master listens for how many workers, which know the token.

    `fault` says why a worker that was started from here cannot come any more.
    """

    host: str
    port: int
    workers: int
    token: str = field(repr=False)
    fault: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class CellPlan:
    """What the load processes of one cell are to do.

    `folder` is its own and new; `bodies` holds one serialised request a line. `rate` None: closed loop.
    `spread`: its `processes` are workers on other hosts; `last`: no other cell follows that they wait for.
    """

    batch: int
    concurrency: int
    host: str
    path: str
    warmup_s: float
    duration_s: float
    timeout_s: float
    bodies: Path
    folder: Path
    rate: float | None = None
    arrivals: Literal["constant", "poisson"] = "poisson"
    profile: tuple[tuple[float, float], ...] = ()
    seed: int = 1
    processes: int = 1
    min_samples: int = 0
    max_duration_s: float = 0.0
    null_url: str = ""
    null_bytes: int = 0
    checks: int = 0
    spread: Spread | None = None
    last: bool = False

    @property
    def name(self) -> str:
        return cell_name(self.batch, self.concurrency, self.rate)

    @property
    def answers(self) -> Path:
        """Where kept answers are: the number of a body on the first line, then the answer's bytes."""
        return self.folder / "answers"

    def samples(self, rank: int) -> Path:
        return self.folder / f"samples-{rank}.csv"

    def progress(self, rank: int) -> Path:
        return self.folder / f"progress-{rank}.json"

    def log(self, rank: int) -> Path:
        return self.folder / f"locust-{rank}.log"

    def clients(self, rank: int) -> int:
        """The share of a process in a closed loop's clients; one makes the arrivals of an open loop."""
        if self.rate is not None:
            return 1
        return self.concurrency // self.processes + (rank < self.concurrency % self.processes)

    @property
    def longest_s(self) -> float:
        """From the first user to the last answer, at most."""
        # One time-out for a window that waits for its least requests, one for their answers.
        window = max(self.duration_s, self.max_duration_s)
        return NULL_S + self.warmup_s + window + 2 * self.timeout_s + LAST_ANSWERS_S + SLACK_S

    def document(self, rank: int) -> dict[str, Any]:
        return {
            "role": "master" if self.spread else "alone",
            "folder": str(self.folder),
            "last": self.last,
            "rank": rank,
            "processes": self.processes,
            "shared": str(self.folder / "shared"),
            "host": self.host,
            "path": self.path,
            "batch": self.batch,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "arrivals": self.arrivals,
            "profile": self.profile,
            "seed": f"{self.seed} {self.name}",
            "warmup_s": self.warmup_s,
            "duration_s": self.duration_s,
            "min_samples": self.min_samples,
            "max_duration_s": max(self.duration_s, self.max_duration_s),
            "timeout_s": self.timeout_s,
            "null_url": self.null_url,
            "null_path": f"/{self.null_bytes}",
            "checks": self.checks,
            "answers": str(self.answers),
            "bodies": str(self.bodies),
            "samples": str(self.samples(rank)),
            "progress": str(self.progress(rank)),
            "hard_end_s": START_ALLOWANCE_S + self.longest_s + SLACK_S,
        }


class Live(NamedTuple):
    """How a cell is doing, for watching: `p99_ms` is of the last few hundred, `qps` over half a second.

    `cpu_percent` (of a core) and `lag_ms` are those of the load process that fares worst; `memory_kind` is
    VRAM or RSS, its peak in this cell so far.
    """

    phase: Literal["starting", "calibration", "warm-up", "measuring", "last answers"]
    left_s: float
    requests: int = 0
    errors: int = 0
    qps: float | None = None
    p99_ms: float | None = None
    quiet_s: float = 0.0  # since the last success
    cpu_percent: float | None = None
    lag_ms: float | None = None
    memory_mib: float | None = None
    memory_kind: str = ""


class Outcome(NamedTuple):
    """How a cell ended. `window` is (start, end) in ns of CLOCK_MONOTONIC; None where it never opened."""

    state: Literal["done", "failed", "interrupted"]
    reason: str | None
    window: tuple[int, int] | None
    client: tuple[ClientProcess, ...] = ()
    null: NullCalibration | None = None
