"""The client of `make bench-server`: raw asyncio in a process of its own.

Reads a job from stdin: {"host", "port", "bodies": [str], "clients", "seconds", "warmup_s"}; each client sends
the next body the moment it has the last answer (closed loop) on one kept-alive connection. Prints
{"latencies_ms", "errors": {status: n}, "seconds", "cpu_s"} of the requests answered in the measured time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from typing import Any


async def run(job: dict[str, Any]) -> dict[str, Any]:
    payloads = [_request(job, body.encode()) for body in job["bodies"]]
    turns = itertools.cycle(payloads)
    begins = time.perf_counter() + job["warmup_s"]
    ends = begins + job["seconds"]
    latencies: list[float] = []
    errors: Counter[str] = Counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(job["host"], job["port"])
        while time.perf_counter() < ends:
            sent = time.perf_counter()
            writer.write(next(turns))
            status = await _answer(reader)
            now = time.perf_counter()
            if begins <= now < ends:
                if status == 200:
                    latencies.append((now - sent) * 1000)
                else:
                    errors[str(status)] += 1
            if status != 200:
                await asyncio.sleep(job.get("pause_s", 0.0))
        writer.close()

    clients = [asyncio.ensure_future(client()) for _ in range(job["clients"])]
    await asyncio.sleep(max(0.0, begins - time.perf_counter()))
    cpu = time.process_time()
    await asyncio.gather(*clients)
    cpu = time.process_time() - cpu
    return {"latencies_ms": latencies, "errors": dict(errors), "seconds": job["seconds"], "cpu_s": cpu}


def _request(job: dict[str, Any], body: bytes) -> bytes:
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {job['host']}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    at = head.lower().index(b"content-length:") + 15
    await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
    return int(head[9:12])


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
