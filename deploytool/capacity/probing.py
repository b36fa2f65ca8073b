"""Probes as cells of one load run: their raw samples, memory and validity are kept like those of any run."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from deploytool import samples
from deploytool.benchmark import LoadOptions, LoadRun
from deploytool.benchmark.options import Point
from deploytool.capacity.search import Observation
from deploytool.errors import Unhealthy
from deploytool.loadgen import validity
from deploytool.loadgen.child import MOST_CLIENTS
from deploytool.loadgen.measured import Samples
from deploytool.loadgen.plan import CellPlan
from deploytool.noise import Requests
from deploytool.records import Cell, PhaseMemory
from deploytool.thresholds import Threshold

LEAST_IN_FLIGHT = 64
IN_FLIGHT_AT_LIMIT = 4  # times what is in flight at the limit (Little): beyond it the SLO is long broken
FIRST_REQUESTS = 5
START_SHARE = 0.5  # of what one client gets: a rate that any server has
START_MOST = 2000.0
CHECKED = 8


class ProbeRun(LoadRun):
    """A load run whose cells are chosen one after the other by a search."""

    def __init__(self, *parts: Any, slo: Sequence[Threshold], drive: Callable[[ProbeRun], None]) -> None:
        super().__init__(*parts)
        self.limit_s = max([one.amount for one in slo if one.unit == "ms"], default=1000.0) / 1000
        self.drive = drive
        self.number = 0
        self.window_s = 0.0
        self.interrupted = False
        self.gone: str | None = None

    def _cells(self) -> None:
        """The search's cells in place of a grid's."""
        self.drive(self)
        good = any(cell.state == "done" for cell in self.record.cells)
        if self.interrupted:
            self.record.state, self.record.reason = "interrupted", "Ctrl-C"
        elif self.gone:
            self.record.state, self.record.reason = "failed", self.gone
        elif good:
            self.record.state = "finished"
        else:
            self.record.state, self.record.reason = "failed", "no rate could be measured"

    def one_client_s(self) -> float:
        """Median seconds of a few requests, one after the other."""
        batch = self.options.batch[0]
        bodies = self.bodies(batch).read_bytes().splitlines()[:FIRST_REQUESTS]
        with self.target.client(self.options.timeout_s) as client:
            taken = [
                client.request("POST", "/v1/embeddings", content=body).latency_ms / 1000 for body in bodies
            ]
        return max(1e-4, statistics.median(taken))

    def start_rate(self) -> float:
        """A rate to begin with: half of what a single client gets."""
        return float(f"{min(START_MOST, START_SHARE / self.one_client_s()):.3g}")

    def measure_rate(self, rate: float, duration_s: float) -> Observation:
        """One window at one rate, stored like a cell."""
        self.window_s = duration_s
        in_flight = math.ceil(IN_FLIGHT_AT_LIMIT * rate * self.limit_s)
        point = Point(self.options.batch[0], min(MOST_CLIENTS, max(LEAST_IN_FLIGHT, in_flight)), rate)
        self.number += 1
        self.progress.cell(self.number, point.name)
        cell = self._cell(point)
        requests = self._requests(self._plan(point), cell)
        if cell.state == "interrupted":
            self.interrupted = True
            raise KeyboardInterrupt
        self.record.cells.append(cell)
        self.record.request["rate"] = sorted({one.rate for one in self.record.cells if one.rate})
        self._store()
        self.progress.done(cell)
        if cell.answers is not None and cell.answers.wrong:
            raise Unhealthy(
                f"{cell.answers.wrong} of {cell.answers.answers} answers were wrong at {rate:g}/s: "
                f"{'; '.join(cell.answers.problems[:2])}",
                hint="a rate of wrong vectors is no capacity; `deploytool smoke` looks closer",
            )
        self.gone = _gone(cell)
        return Observation(requests, cell, _client_fault(cell), self.gone)

    def _plan(self, point: Point) -> CellPlan:
        plan = super()._plan(point)
        return dataclasses.replace(
            plan,
            duration_s=self.window_s,
            min_samples=0,
            max_duration_s=self.window_s,
            folder=plan.folder.with_name(f"{plan.folder.name}-{self.number}"),
            seed=self.options.seed * 1000 + self.number,  # a second look has other arrivals
            processes=1,
        )

    def _requests(self, plan: CellPlan, cell: Cell) -> Requests:
        """The window's requests, from the part of the samples that was just written."""
        found = Requests(window_s=cell.duration_s)
        path = self.kept.part(plan.folder.name)
        if not path.is_file():
            return found
        for row in samples.stream(path, ("phase", "start_ns", "latency_ns", "error")):
            start, latency = row["start_ns"] / 1e9, row["latency_ns"] / 1e6
            if row["phase"] != "measure":
                if row["error"] is None:
                    found.beside.append((start, latency))
            elif row["error"] is None:
                found.start_s.append(start)
                found.latency_ms.append(latency)
            else:
                found.failed_s.append(start)
        return found


def _client_fault(cell: Cell) -> str | None:
    """Why a window says nothing of the target. Requests dropped for want of a connection are the target's."""
    if cell.state != "done":
        return None
    own = cell.model_copy(update={"sent_rate": None, "due_rate": None, "dropped": 0})
    judged = validity.judge(own, Samples(), None, PhaseMemory(phase=cell.name), None)
    return judged.reasons[0] if judged.verdict == "void" else None


def _gone(cell: Cell) -> str | None:
    """Why there is no target any more. Requests that all failed are an answer, too: the SLO breaks there."""
    if cell.state == "done":
        return None
    if cell.errors:
        listening = cell.reason is None or not any(
            word in cell.reason for word in ("is gone", "nothing listens", "ended early", "did not end")
        )
        return None if listening else cell.reason
    return cell.reason or "no request was answered"


def load_options(values: dict[str, Any], slo: Sequence[Threshold]) -> LoadOptions:
    """The load options of a search: a time-out far beyond the SLO, so that a backlog ends soon."""
    from deploytool.benchmark.options import options_from

    limit_s = max([one.amount for one in slo if one.unit == "ms"], default=1000.0) / 1000
    return options_from(
        {"rate": (1.0,), "concurrency": (1,), "warmup_s": 1.0, "checks": 0,
         "timeout_s": min(60.0, max(5.0, 20 * limit_s))} | values
    )  # fmt: skip
