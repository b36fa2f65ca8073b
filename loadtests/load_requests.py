"""One request: sent, told apart, recorded."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import gevent
import lean_http
from load_state import LOAD, Shared

MOST_KEPT_BYTES = 64 << 20
PAUSE_AFTER_BROKEN_CONNECTION_S = 0.1
TOKENS = re.compile(rb'"(?:prompt_tokens|total_tokens)"\s*:\s*(\d+)')


@dataclass(slots=True)
class Result:
    """One request as counted. Times in ns; `error` "" is a success."""

    latency_ns: int
    status: int
    error: str
    response_bytes: int
    problem: lean_http.Broken | None


def send(connection: lean_http.Connection, due_ns: int = 0) -> Result:
    """Send the next request and record it. `due_ns`: when it was due in an open loop, else now."""
    load, shared = LOAD, LOAD.shared
    index = load.next_index()
    sent_ns = time.monotonic_ns()
    start_ns = due_ns or sent_ns
    measured = load.is_measured(start_ns)
    if measured:
        shared.add(Shared.STARTED, 1)
        if not due_ns:  # an arrival was counted when it was due
            shared.add(Shared.PENDING, 1)
        if load.keep_at and start_ns >= load.keep_at[0]:
            del load.keep_at[0]
            connection.keep = True
    problem, tokens = None, ""
    status = size = 0
    try:
        status = connection.exchange(load.requests[index])
        end_ns = arrived_ns(connection, sent_ns)
        size, error = connection.length, http_error(status, connection, load.batch)
        if not error:
            tokens = usage(connection)
    except lean_http.Broken as broken:
        end_ns = time.monotonic_ns()
        problem, error = broken, broken.kind
    finally:
        if measured:
            shared.add(Shared.PENDING, -1)
    latency = end_ns - start_ns
    if load.samples is not None:
        service = end_ns - sent_ns if due_ns else ""
        load.lines.append(f"{start_ns},{latency},{status},{error},{tokens},{size},{service}\n")
    count(latency, error, measured)
    if connection.keep:
        connection.keep = False
        if not error and sum(len(answer) for _, answer in load.kept) + size < MOST_KEPT_BYTES:
            load.kept.append((index, connection.whole))
    return Result(latency, status, error, size, problem)


def arrived_ns(connection: lean_http.Connection, sent_ns: int) -> int:
    """When the answer was on this machine, whenever this process came to read it.

    Asked in this order: what passes between the two makes a latency longer, never shorter.
    """
    late_ns = connection.late_ns()
    now_ns = time.monotonic_ns()
    if late_ns is None or not 0 <= late_ns <= now_ns - sent_ns:  # or the wall clock was set meanwhile
        LOAD.tally.untimed += 1
        return now_ns
    return now_ns - late_ns


def count(latency_ns: int, error: str, measured: bool) -> None:
    tally = LOAD.tally
    if not measured and LOAD.shared.cells[Shared.CLOSED]:
        return  # sent after the window only to keep the load up, and cut off with it
    tally.requests += 1
    if error:
        tally.errors += 1
    else:
        tally.latencies.append(latency_ns)
        if measured:
            LOAD.shared.add(Shared.SUCCEEDED, 1)


def drop(due_ns: int) -> None:
    """Count a request that was due and could not be sent: all connections were in use."""
    load = LOAD
    if load.is_measured(due_ns):
        load.shared.add(Shared.STARTED, 1)
    load.lines.append(f"{due_ns},0,0,dropped,,0,\n")
    load.tally.requests += 1
    load.tally.errors += 1


def http_error(status: int, answer: lean_http.Connection, texts: int) -> str:
    """The class of a whole answer that is no success, else ""."""
    if status == 429:
        return "429"
    if not 200 <= status < 300:
        return f"{status // 100}xx"
    # Not parsed: an error in a 200, a cut body or a login page lacks one of these. 8 bytes a text is far
    # below any vector.
    first = answer.first
    whole = (
        first[:8].lstrip()[:1] == b"{"
        and answer.last[-8:].rstrip()[-1:] == b"}"
        and answer.length >= 8 * texts
    )
    return "" if whole and b'"embedding"' in first and not first.startswith(b'{"error"') else "bad_body"


def usage(answer: lean_http.Connection) -> str:
    """The answer's token count, read from its last bytes (or its first), or ""."""
    found = TOKENS.search(answer.last) or TOKENS.search(answer.first, 0, 300)
    return found[1].decode() if found else ""


def client(connection: lean_http.Connection) -> Result:
    """One request of a closed loop; a client whose connection broke pauses before its next one."""
    result = send(connection)
    if result.problem is not None:
        gevent.sleep(PAUSE_AFTER_BROKEN_CONNECTION_S)
    return result
