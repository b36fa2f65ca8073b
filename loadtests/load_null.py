"""The same load at a server that only sends bytes, right before a cell: what this client can do, and adds."""

from __future__ import annotations

import time

import gevent
import lean_http
from load_requests import send
from load_state import LOAD, Shared, wait_for

NULL_OPEN_CLIENTS = 16


def calibrate() -> None:
    """The same requests at a server that only sends bytes: what this client can do, and what it adds."""
    load, cells = LOAD, LOAD.shared.cells
    load.calibrating = True
    url, samples, load.samples = load.cell["null_url"], load.samples, None
    server = lean_http.Server(url)
    requests = load.requests
    plain = {name: value for name, value in load.headers.items() if name != "Authorization"}
    load.requests = [server.request(load.cell["null_path"], plain, body) for body in load.bodies[:64]]
    alone: list[int] = []
    if load.rank == 0:
        null_client(server, cells[Shared.ALONE], cells[Shared.ALL], alone)
    clients = NULL_OPEN_CLIENTS if load.cell["rate"] else load.cell["concurrency"]
    share = clients // load.processes + (load.rank < clients % load.processes)
    together: list[int] = []
    wait_for(Shared.ALL, 0.001)
    started = time.monotonic_ns()
    busy = time.process_time()
    gevent.joinall(
        [gevent.spawn(null_client, server, started, cells[Shared.TARGET], together) for _ in range(share)]
    )
    seconds = (time.monotonic_ns() - started) / 1e9
    load.null = {
        "qps": len(together) / seconds,
        "cpu_percent": 100 * (time.process_time() - busy) / seconds,
        "clients": share,
    }
    if alone:
        load.null["added_ms"] = sorted(alone)[-(-len(alone) // 2) - 1] / 1e6
    load.requests, load.samples, load.sent, load.lines = requests, samples, 0, []
    load.tally.requests = load.tally.errors = load.tally.untimed = 0
    load.tally.latencies.clear()
    load.calibrating = False


def null_client(server: lean_http.Server, start_ns: int, end_ns: int, latencies: list[int]) -> None:
    connection = lean_http.connect(server, LOAD.timeout_s)
    while (now := time.monotonic_ns()) < end_ns:
        if now < start_ns:
            gevent.sleep(0.001)
            continue
        result = send(connection)
        if result.error:
            gevent.sleep(0.01)
        else:
            latencies.append(result.latency_ns)
    connection.close()
