"""What the progress files of a cell's load processes say."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from deploytool.loadgen.plan import START_ALLOWANCE_S, CellPlan, Live
from deploytool.records import ClientProcess, NullCalibration


class View:
    """The progress of one load process."""

    def __init__(self, plan: CellPlan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.began_ns = time.monotonic_ns()
        self.document: dict[str, Any] = {}
        self.qps: float | None = None
        self.cpu_percent: float | None = None
        self.last_success_ns = self.began_ns

    def read(self) -> None:
        try:
            new: dict[str, Any] = json.loads(self.plan.progress(self.rank).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        before, self.document = self.document, new
        if new["now_ns"] <= before.get("now_ns", 0):
            return
        succeeded = new["requests"] - new["errors"] - (before.get("requests", 0) - before.get("errors", 0))
        if before:
            seconds = (new["now_ns"] - before["now_ns"]) / 1e9
            self.qps = max(0.0, succeeded / seconds)
            self.cpu_percent = 100 * max(0.0, new["cpu_total_s"] - before["cpu_total_s"]) / seconds
        if succeeded > 0 or not before:
            self.last_success_ns = new["now_ns"]

    def is_overdue(self) -> bool:
        allowed = self.plan.longest_s + (0 if self.document else START_ALLOWANCE_S)
        since = self.document.get("window_start_ns") or self.began_ns
        return time.monotonic_ns() - since > allowed * 1e9

    def window(self, now_ns: int) -> tuple[int, int] | None:
        """The measured time; cut to now where the cell was ended early."""
        start, end = self.document.get("window_start_ns", 0), self.document.get("window_end_ns", 0)
        end = min(end, now_ns)
        return (start, end) if 0 < start < end else None


def together(views: Sequence[View]) -> Live:
    """All processes of a cell as one."""
    plan = views[0].plan
    first = next((view.document for view in views if view.document), None)
    if first is None:
        return Live("starting", plan.warmup_s + plan.duration_s)
    now = time.monotonic_ns()
    start, end = first["window_start_ns"], first["window_end_ns"]
    phase: Literal["calibration", "warm-up", "measuring", "last answers"] = "last answers"
    if now < first["target_ns"] or not start:
        phase, end = "calibration", max(end, now + int((plan.warmup_s + plan.duration_s) * 1e9))
    elif now < end:
        phase = "warm-up" if now < start else "measuring"
    seen = [view.document for view in views if view.document]
    rates = [view.qps for view in views if view.qps is not None]
    tails = [document["p99_ms"] for document in seen if document["p99_ms"] is not None]
    return Live(
        phase, max(0.0, (end - now) / 1e9),
        sum(document["requests"] for document in seen), sum(document["errors"] for document in seen),
        sum(rates) if rates else None, max(tails) if tails else None,
        (now - max(view.last_success_ns for view in views)) / 1e9,
        max((view.cpu_percent for view in views if view.cpu_percent is not None), default=None),
        max((document["lag_recent_ms"] for document in seen), default=None),
    )  # fmt: skip


def window_of(views: Sequence[View], now_ns: int) -> tuple[int, int] | None:
    """The measured time, which all processes share."""
    return next((window for view in views if (window := view.window(now_ns))), None)


def client_of(views: Sequence[View]) -> tuple[ClientProcess, ...]:
    """The health of every process that ended in order, and of workers that were lost."""
    found = []
    for view in views:
        document = view.document
        seconds, lag, clock = document.get("cpu_s"), document.get("lag_ms") or {}, document.get("clock") or {}
        if seconds is None and "lost" not in document:
            continue
        window_ns = document["window_end_ns"] - document["window_start_ns"]
        found.append(
            ClientProcess(
                cpu_percent=None if seconds is None else round(100e9 * seconds / window_ns, 1),
                lag_p50_ms=lag.get("p50"),
                lag_p99_ms=lag.get("p99"),
                lag_max_ms=lag.get("max"),
                arrivals_told=document.get("arrivals_told", False),
                host=document.get("host"),
                lost=document.get("lost"),
                clock_offset_ms=clock.get("offset_ms"),
                clock_uncertain_ms=clock.get("uncertain_ms"),
                clock_moved_ms=clock.get("moved_ms"),
            )
        )
    return tuple(found)


def null_of(plan: CellPlan, views: Sequence[View]) -> NullCalibration | None:
    parts = [view.document["null"] for view in views if view.document.get("null")]
    if len(parts) < len(views):
        return None
    return NullCalibration(
        ceiling_qps=sum(part["qps"] for part in parts),
        added_ms=parts[0].get("added_ms"),
        clients=sum(part["clients"] for part in parts),
        response_bytes=plan.null_bytes,
        cpu_percent=round(max(part["cpu_percent"] for part in parts), 1),
    )
