"""The open loop: when requests are due, and that each leaves then or is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import gevent
import lean_http
from load_requests import drop, send
from load_state import LOAD, Shared, wait_for
from precise_clock import PreciseTimer


def arrive() -> None:
    """The open loop of this process: its share of the arrivals, each sent when it is due or dropped."""
    load = LOAD
    timer, made = PreciseTimer(), 0
    free: list[lean_http.Connection] = []
    pool = max(1, load.cell["concurrency"] // load.processes)
    due = wait_for(Shared.TARGET)
    for gap_ns in gaps_ns(load.cell, load.rank, load.processes):
        due += gap_ns
        load.shared.put(Shared.DUE, due)
        timer.until(due)
        if load.closing:
            return
        if not free and made < pool:
            free.append(lean_http.connect(load.server, load.timeout_s))
            made += 1
        if free:
            if load.is_measured(due):
                load.shared.add(Shared.PENDING, 1)
            gevent.spawn(sent_when_due, free.pop(), due, free)
        else:
            drop(due)


def sent_when_due(connection: lean_http.Connection, due_ns: int, free: list[lean_http.Connection]) -> None:
    try:
        send(connection, due_ns)
    finally:
        free.append(connection)


def gaps_ns(cell: dict[str, Any], rank: int, processes: int) -> Iterator[int]:
    """Times between the arrivals of one process. Poisson processes of rate/N make one of the whole rate."""
    mean_ns = 1e9 * processes / cell["rate"]
    chance = Random(f"arrivals {cell['seed']} {rank}")
    passed = 0.0
    constant = cell["arrivals"] == "constant"
    if constant:
        passed = mean_ns * (rank + 1) / processes
        yield int(passed)
    while True:
        gap = (1.0 if constant else chance.expovariate(1.0)) * mean_ns / factor(cell["profile"], passed / 1e9)
        passed += gap
        yield int(gap)


def factor(profile: list[list[float]], at_s: float) -> float:
    """What the rate is multiplied with at a time: straight lines between the points, level beyond them."""
    before = [1.0, 1.0] if not profile else profile[0]
    for point in profile:
        if point[0] >= at_s:
            share = (at_s - before[0]) / (point[0] - before[0]) if point[0] > before[0] else 1.0
            return max(1e-6, before[1] + share * (point[1] - before[1])) if at_s > before[0] else before[1]
        before = point
    return max(1e-6, before[1])
