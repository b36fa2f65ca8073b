"""A stand-in embeddings server whose latencies are known, because it records its own.

    python reference_server.py --answers SCRIPT [--record FILE] [--vectors N] [--key KEY] [--most-bytes N]
        [--slots N] [--host ADDRESS] [--port N]

It prints its URL as the first line. Bodies are canned and nothing is parsed, so that the server itself does
not lag. SCRIPT is a comma-separated list that is walked once per request and repeated, each entry `KIND` or
`KIND@MS` (`ok@40*49,ok@200` is 49 answers after 40 ms, then one after 200 ms). Kinds: ok, other (other
vectors), 400, 429, 500, garbage (a 200 that is no embedding), error200 (a 200 holding an error), short (a cut
body), strange (no HTTP), reset (the connection is cut), silent (never answers), stall@MS (the whole server
sleeps). With --key a request without it is answered 401, with --most-bytes a longer body 413; neither takes a
step of the script.
With --slots at most N answers are worked on at once, the others wait in turn: its capacity is N / MS.

The record holds one line per request: received_ns,answered_ns,kind in nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MODEL = "reference-model"


def head(status: int, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status} As Told\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def answers(vectors: int, dimensions: int) -> dict[str, bytes]:
    """The bytes of every kind of answer, made once."""
    data = [
        {"object": "embedding", "index": i, "embedding": [0.01 * (i + 1)] * dimensions}
        for i in range(vectors)
    ]
    usage = {"prompt_tokens": 7 * vectors, "total_tokens": 7 * vectors}
    ok = json.dumps({"object": "list", "data": data, "model": MODEL, "usage": usage}).encode()
    turned = [row | {"embedding": [0.3] + [-0.1] * (dimensions - 1)} for row in data]
    other = json.dumps({"object": "list", "data": turned, "model": MODEL, "usage": usage}).encode()
    error = json.dumps({"error": {"message": "as told", "type": "test"}}).encode()
    garbage = b"<html>the proxy says hello, and this is no embedding at all, only a page</html>"
    bodies = {"ok": (200, ok), "other": (200, other), "garbage": (200, garbage), "error200": (200, error)}
    bodies |= {str(status): (status, error) for status in (400, 401, 413, 429, 500)}
    made = {kind: head(status, len(body)) + body for kind, (status, body) in bodies.items()}
    made["strange"] = b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
    made["short"] = head(200, len(ok)) + ok[: len(ok) // 2]
    return made


def script(text: str) -> list[tuple[str, float]]:
    """`ok@40*49,429` as [("ok", 0.04), ...]."""
    steps: list[tuple[str, float]] = []
    for entry in text.split(","):
        what, _, times = entry.partition("*")
        kind, _, milliseconds = what.partition("@")
        steps += [(kind, float(milliseconds or 0) / 1000)] * int(times or 1)
    return steps


class Server:
    """What is answered: canned bytes, in the order of the script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.canned = answers(options.vectors, options.dimensions)
        self.steps: Iterator[tuple[str, float]] = itertools.cycle(script(options.answers))
        self.record = options.record.open("w", buffering=1) if options.record else None
        self.key = f"bearer {options.key}".lower().encode() if options.key else b""
        self.most_bytes: int = options.most_bytes
        self.free_ns: list[int] = [0] * options.slots  # a heap: when each slot is free

    def step(self, head: bytes, length: int) -> tuple[str, float]:
        """The kind of the next answer and what it waits, for a request with this head, in lower case."""
        if self.key and self.key not in head:
            return "401", 0.0
        if length > self.most_bytes:
            return "413", 0.0
        return next(self.steps)

    def wait_s(self, work_s: float) -> float:
        """How long an answer takes that needs `work_s` of a slot, its turn included."""
        if not self.free_ns:
            return work_s
        now = time.monotonic_ns()
        done = max(now, self.free_ns[0]) + int(work_s * 1e9)
        heapq.heapreplace(self.free_ns, done)
        return (done - now) / 1e9

    def write(self, received: int, kind: str) -> None:
        if self.record:
            self.record.write(f"{received},{time.monotonic_ns()},{kind}\n")


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        lower = self.buffer[:end].lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        is_get = self.buffer.startswith(b"GET")
        self.buffer = self.buffer[end + 4 + length :]
        if is_get:
            body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            self.transport.write(head(200, len(body)) + body)
            return
        self.answer(time.monotonic_ns(), *self.server.step(lower, length))

    def answer(self, received: int, kind: str, wait_s: float) -> None:
        if kind == "stall":
            time.sleep(wait_s)  # on purpose on the loop: everybody waits
            kind, wait_s = "ok", 0.0
        if wait_s:
            wait_s = self.server.wait_s(wait_s)
            asyncio.get_running_loop().call_later(wait_s, self.send, received, kind)
        else:
            self.send(received, kind)

    def send(self, received: int, kind: str) -> None:
        self.server.write(received, kind)
        if kind == "silent" or self.transport.is_closing():
            return
        if kind == "reset":
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
            return
        self.transport.write(self.server.canned[kind])
        if kind in ("short", "strange"):
            self.transport.close()


async def serve(options: argparse.Namespace) -> None:
    server = Server(options)
    listener = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), options.host, options.port, backlog=1024
    )
    print(f"http://{options.host}:{listener.sockets[0].getsockname()[1]}", flush=True)
    await listener.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--answers", default="ok")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--vectors", type=int, default=1)
    parser.add_argument("--dimensions", type=int, default=8)
    parser.add_argument("--key", default="")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--most-bytes", type=int, default=1 << 30)
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
