"""An open loop that does not wait: the client of `server.py --overload`, in a process of its own.

Reads {"port", "bodies": [str], "rate", "seconds"} from stdin. Requests are sent when they are due, each on a
connection that waits for nothing, a new one where there is none. Prints {"sent", "good" (200s while it sent),
"latencies_ms" (of all 200s), "statuses", "with_retry_after", "lost", "connections", "cpu_s"}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from typing import Any, cast

import uvloop

MOST = 4000  # connections; a request that is due beyond it is lost
TICK_S = 0.005
DRAIN_S = 30.0


class Flood:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.payloads = itertools.cycle([_request(body.encode()) for body in job["bodies"]])
        self.free: list[Connection] = []
        self.count = self.busy = self.sent = self.lost = self.retry = 0
        self.opening: set[asyncio.Task[None]] = set()
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def run(self) -> dict[str, Any]:
        began = time.perf_counter()
        due = 0.0
        while (now := time.perf_counter() - began) < self.job["seconds"]:
            while due <= now:
                due += 1 / self.job["rate"]
                self._send()
            await asyncio.sleep(TICK_S)
        cpu, good = time.process_time(), len(self.latencies)
        deadline = time.perf_counter() + DRAIN_S
        while self.busy and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)
        return {
            "sent": self.sent, "good": good, "latencies_ms": self.latencies, "statuses": dict(self.statuses),
            "with_retry_after": self.retry, "lost": self.lost, "connections": self.count, "cpu_s": cpu,
        }  # fmt: skip

    def _send(self) -> None:
        self.sent += 1
        if self.free:
            self.busy += 1
            self.free.pop().send(next(self.payloads))
        elif self.count < MOST:
            self.count += 1
            self.busy += 1
            task = asyncio.ensure_future(self._open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        else:
            self.lost += 1

    async def _open(self) -> None:
        began, loop = time.perf_counter(), asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self.job["port"]
            )
        except OSError:
            self.count -= 1
            self.busy -= 1
            self.lost += 1
        else:
            connection.send(next(self.payloads), began)


class Connection(asyncio.Protocol):
    def __init__(self, flood: Flood) -> None:
        self.flood = flood
        self.got = b""
        self.began = 0.0
        self.waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # TCP

    def send(self, payload: bytes, began: float | None = None) -> None:
        self.got, self.began, self.waits = b"", began or time.perf_counter(), True
        self.transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, separator, body = self.got.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        if len(body) < int(lower[at:].split(b"\r\n", 1)[0]):
            return
        flood, status = self.flood, int(head[9:12])
        flood.statuses[status] += 1
        flood.retry += status == 429 and b"retry-after:" in lower
        if status == 200:
            flood.latencies.append((time.perf_counter() - self.began) * 1000)
        self.waits = False
        flood.busy -= 1
        flood.free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.flood.count -= 1
        if self.waits:
            self.flood.busy -= 1
            self.flood.lost += 1
        elif self in self.flood.free:
            self.flood.free.remove(self)


def _request(body: bytes) -> bytes:
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # half the processor time of asyncio's
        json.dump(runner.run(Flood(json.load(sys.stdin)).run()), sys.stdout)
