"""One cell of a grid: its work, its clients, its measured window, and the processes that share it.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.

    ready ... null server, one client | null server, all clients | warm-up | window ... last answers

The processes of a cell share a small file of whole numbers: process 0 writes when each part begins and ends,
every process how far it is.
"""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import gevent
import load_null
from load_state import LOAD, Shared, whole_or_nothing

FLUSH_S = 0.25
PROGRESS_S = 0.5
LEAST_REQUESTS = 5  # that start in a window: a slow target's window lasts longer for them
LAST_ANSWERS_S = 5.0  # how long requests that started after the window may still take
NULL_ALONE_S, NULL_ALL_S = 0.25, 0.6
LIVE_PROBES = 25  # half a second of them


def use_cell(cell: dict[str, Any]) -> None:
    """Take over the work of one cell."""
    load = LOAD
    load.cell, load.rank = cell, cell["rank"]
    load.path, load.batch, load.timeout_s = cell["path"], cell["batch"], cell["timeout_s"]
    load.shared = Shared(cell["shared"], cell["rank"], cell["processes"])
    load.bodies = Path(cell["bodies"]).read_bytes().splitlines()
    if not cell["rate"]:
        load.shared.put(Shared.DUE, 1 << 62)
    load.open_samples(cell["samples"])


def use_remote_cell(cell: dict[str, Any], bodies: bytes, samples: Any) -> None:
    """Take over a cell that another host leads: `LOAD.remote` is told what else goes to files."""
    load = LOAD
    load.cell, load.rank = cell, cell["rank"]
    load.path, load.batch, load.timeout_s = cell["path"], cell["batch"], cell["timeout_s"]
    load.shared = Shared(None, cell["rank"], cell["processes"])
    load.bodies = bodies.splitlines()
    load.samples = samples
    if not cell["rate"]:
        load.shared.put(Shared.DUE, 1 << 62)


def keep_flushing() -> None:
    while True:
        gevent.sleep(FLUSH_S)
        LOAD.flush()


def begin(environment: Any) -> None:
    """All clients of this process are there."""
    if LOAD.shared.all(Shared.READY)[LOAD.rank]:
        return
    LOAD.shared.put(Shared.READY, 1)
    if LOAD.rank == 0 and LOAD.remote is None:
        gevent.spawn(lead)
    gevent.spawn(LOAD.probe.run)
    gevent.spawn(follow, environment)


def lead() -> None:
    """Say when each part begins, and when the window and all is over."""
    load, cells = LOAD, LOAD.shared.cells
    while not all(load.shared.all(Shared.READY)):
        gevent.sleep(0.005)
    target = time.monotonic_ns()
    if load.cell["null_url"]:
        cells[Shared.ALL] = target + int(NULL_ALONE_S * 1e9)
        cells[Shared.ALONE] = target
        target += int((NULL_ALONE_S + NULL_ALL_S) * 1e9)
    window = target + int(load.cell["warmup_s"] * 1e9)
    cells[Shared.PLANNED] = window + int(load.cell["duration_s"] * 1e9)
    cells[Shared.WINDOW] = window
    cells[Shared.TARGET] = target
    while not is_enough(now := time.monotonic_ns()):
        next_ns = window if now < window else cells[Shared.PLANNED]
        gevent.sleep(min(0.1, max(0.005, (next_ns - now) / 1e9)))
    cells[Shared.CLOSED] = closed = time.monotonic_ns()
    while any(load.shared.all(Shared.PENDING)) or min(load.shared.all(Shared.DUE)) < closed:
        gevent.sleep(0.01)
    cells[Shared.STOP] = time.monotonic_ns()


def is_enough(now_ns: int) -> bool:
    """Whether the window is over: its time is, every client began a request in it, and enough were answered.

    A slow target gets a longer window: by a time-out at most for its first requests, to `max_duration_s` for
    the samples that were asked for.
    """
    cell, shared = LOAD.cell, LOAD.shared
    planned = shared.cells[Shared.PLANNED]
    if now_ns < planned:
        return False
    least = max(LEAST_REQUESTS, 0 if cell["rate"] else cell["concurrency"])
    if sum(shared.all(Shared.STARTED)) < least and now_ns < planned + int(LOAD.timeout_s * 1e9):
        return False
    limit = shared.cells[Shared.WINDOW] + int(cell["max_duration_s"] * 1e9)
    return sum(shared.all(Shared.SUCCEEDED)) >= cell["min_samples"] or now_ns >= limit


def follow(environment: Any) -> None:
    """Go through the parts of the cell, keep the live view, and end when all is answered."""
    load, cells = LOAD, LOAD.shared.cells
    report("running")
    while not cells[Shared.TARGET]:
        gevent.sleep(0.005)
    if load.cell["null_url"]:
        load_null.calibrate()
    spread_kept(cells[Shared.WINDOW], cells[Shared.PLANNED])
    gc.collect()
    gc.freeze()  # what is there now stays: no collection in the window walks it
    said = 0.0
    while not cells[Shared.CLOSED]:
        if not load.tally.cpu_start_s and time.monotonic_ns() >= cells[Shared.WINDOW]:
            load.tally.cpu_start_s, load.probe.on = time.process_time(), True
        gevent.sleep(0.02)
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            report("running")
    load.tally.cpu_end_s, load.probe.on = time.process_time(), False
    while not cells[Shared.STOP]:
        gevent.sleep(0.01)
    load.closing = True
    last = time.monotonic() + LAST_ANSWERS_S
    while environment.runner.user_count and time.monotonic() < last and not load.cell["rate"]:
        gevent.sleep(0.01)
    load.flush()
    write_kept()
    report("finished")
    environment.process_exit_code = 0
    if load.remote is None:
        environment.runner.quit()
    else:
        load.remote.end()


def spread_kept(window_ns: int, end_ns: int) -> None:
    """When to keep an answer for checking: evenly over the window."""
    count = LOAD.cell["checks"] // LOAD.processes + (LOAD.rank < LOAD.cell["checks"] % LOAD.processes)
    LOAD.keep_at = [window_ns + (end_ns - window_ns) * number // max(1, count) for number in range(count)]


def write_kept() -> None:
    """Each kept answer in a file of its own: the number of its body on a line, then its bytes."""
    with whole_or_nothing():
        for number, (index, answer) in enumerate(LOAD.kept):
            if LOAD.remote is not None:
                LOAD.remote.send("kept", b"%d\n" % index + answer)
                continue
            path = Path(LOAD.cell["answers"]) / f"{LOAD.rank}-{number}"
            path.write_bytes(b"%d\n" % index + answer)


def report(state: str) -> None:
    """This process's progress, by file. Its percentile is of the last few hundred: for watching only."""
    load, tally, cells = LOAD, LOAD.tally, LOAD.shared.cells
    recent = sorted(tally.latencies)
    document = nothing_yet() | {
        "state": state,
        "now_ns": time.monotonic_ns(),
        "target_ns": cells[Shared.TARGET],
        "window_start_ns": cells[Shared.WINDOW],
        "window_end_ns": cells[Shared.CLOSED] or cells[Shared.PLANNED],
        "requests": tally.requests,
        "errors": tally.errors,
        "p99_ms": recent[-(-len(recent) * 99 // 100) - 1] / 1e6 if recent else None,
        "pending": sum(load.shared.all(Shared.PENDING)),
        "cpu_total_s": time.process_time(),
        "lag_recent_ms": max(load.probe.lags_ns[-LIVE_PROBES:], default=0) / 1e6,
        "cpu_s": tally.cpu_end_s - tally.cpu_start_s if tally.cpu_end_s else None,
        "lag_ms": load.probe.summary() if state == "finished" else None,
        "arrivals_told": tally.untimed <= tally.requests / 100,  # the first ones may lack it
        "null": load.null or None,
    }
    if load.remote is not None:
        load.remote.report(document)
        return
    path = Path(load.cell["progress"])
    partial = path.with_name(path.name + ".part")
    with whole_or_nothing():
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)


def nothing_yet() -> dict[str, Any]:
    """What a process reports before it has anything to say."""
    return {
        "state": "starting", "now_ns": 0, "target_ns": 0, "window_start_ns": 0, "window_end_ns": 0,
        "requests": 0, "errors": 0, "p99_ms": None, "pending": 0, "cpu_total_s": 0.0, "lag_recent_ms": 0.0,
        "arrivals_told": False, "cpu_s": None, "lag_ms": None, "null": None,
    }  # fmt: skip
