"""A server that answers canned bytes at once: what the load generator can do at best, and what it adds.

    python -m deploytool.loadgen.null_server

prints its URL, and answers POST /BYTES with a body of that many bytes that looks like embeddings. Nothing is
parsed but the head. It ends when its standard input does, so that it never outlives who started it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

START = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1'
END = b'5]}],"model":"null","usage":{"prompt_tokens":1,"total_tokens":1}}'
FILLER = b",0.123456789"
MOST_BYTES = 512 << 20
READ_BYTES = 1 << 20


@contextlib.contextmanager
def running() -> Iterator[str]:
    """A null server in a process of its own; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool.loadgen.null_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process.stdout.readline().strip() if process.stdout else ""
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.kill()
        process.wait()


def body(size: int) -> bytes:
    """`size` bytes (at least the shortest such answer) of JSON that looks like embeddings."""
    missing = max(0, min(size, MOST_BYTES) - len(START) - len(END))
    filler = FILLER * (missing // len(FILLER) + 1)
    return START + filler[:missing] + END


@dataclass
class Client:
    """One connection: what came of its request, and what is still to be sent."""

    socket: socket.socket
    received: bytes = b""
    unsent: memoryview = memoryview(b"")  # noqa: RUF009 - empty and immutable


class NullServer:
    """One loop over all connections."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> None:
        print(f"http://127.0.0.1:{self.listener.getsockname()[1]}", flush=True)  # noqa: T201 - its one output
        while True:
            for key, events in self.selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self.listener:
                    self.accept()
                    continue
                try:
                    self.turn(key.data, events)
                except OSError:
                    self.selector.unregister(key.fileobj)
                    key.data.socket.close()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            new, _ = self.listener.accept()
            new.setblocking(False)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(new, selectors.EVENT_READ, Client(new))

    def turn(self, client: Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self.send(client, client.unsent)
            return
        data = client.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError
        received = client.received + data if client.received else data
        end = received.find(b"\r\n\r\n")
        at = received.find(b"Content-Length: ", 0, max(0, end))
        if end < 0 or len(received) < end + 4 + int(received[at + 16 : received.index(b"\r\n", at)]):
            client.received = received
            return
        client.received = b""
        self.send(client, memoryview(self.answer(received[: received.index(b" HTTP")])))

    def answer(self, line: bytes) -> bytes:
        if line not in self.answers:
            content = body(int(line.rpartition(b"/")[2]))
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self.answers[line] = head % len(content) + content
        return self.answers[line]

    def send(self, client: Client, rest: memoryview) -> None:
        waited = bool(client.unsent)
        try:
            while rest:
                rest = rest[client.socket.send(rest) :]
        except BlockingIOError:
            pass
        client.unsent = rest
        if waited != bool(rest):
            events = selectors.EVENT_WRITE if rest else selectors.EVENT_READ
            self.selector.modify(client.socket, events, client)


if __name__ == "__main__":
    NullServer().serve()
