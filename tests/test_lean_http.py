"""The load generator's HTTP client against servers that answer byte by byte as each test says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import unused_port

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "loadtests"))

gevent = pytest.importorskip("gevent", reason="the load generator needs gevent (extra: load)")
import lean_http  # type: ignore[import-not-found,unused-ignore] # noqa: E402

BODY = b'{"data":[{"embedding":[0.5]}]}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
Answer = Callable[[socket.socket, bytes], bool]  # whether the connection stays open


class Server:
    """One thread, one connection after the other; `answer` gets each whole request."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.answer, self.context = answer, context
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", unused_port()))
        scheme = "https" if context else "http"
        self.url = f"{scheme}://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def close(self) -> None:
        """Nobody is answered any more: closing alone would leave a thread that waits in accept its socket."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                with contextlib.suppress(OSError), connection:
                    self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True)
        received, needed = bytearray(), 0
        while data := connection.recv(65536):
            received += data
            if not needed and (end := received.find(b"\r\n\r\n")) >= 0:
                head, body = bytes(received[:end]), end + 4
                needed = body + int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if needed and len(received) >= needed:
                request = bytes(received[body:])
                received, needed = bytearray(), 0
                if not self.answer(connection, request):
                    break
        connection.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(answer: Answer | bytes, context: ssl.SSLContext | None = None) -> Server:
        def canned(connection: socket.socket, _: bytes) -> bool:
            assert isinstance(answer, bytes)
            connection.sendall(answer)
            return True

        servers.append(Server(canned if isinstance(answer, bytes) else answer, context))
        return servers[-1]

    watching = gevent.spawn(lean_http.keep_deadlines)
    yield start
    watching.kill()
    for server in servers:
        server.close()


def asked(
    server: Server, times: int = 1, timeout_s: float = 20.0, body: bytes = b"{}", keep: bool = True
) -> lean_http.Connection:
    """A connection after so many exchanges."""
    target = lean_http.Server(server.url)
    connection = lean_http.connect(target, timeout_s)
    request = target.request("/v1/embeddings", {"Content-Type": "application/json"}, body)
    for _ in range(times):
        connection.keep = keep
        assert connection.exchange(request) == 200
    connection.close()
    return connection


def broken(server: Server, timeout_s: float = 20.0) -> str:
    with pytest.raises(lean_http.Broken) as caught:
        asked(server, timeout_s=timeout_s)
    kind: str = caught.value.kind
    return kind


def test_an_answer_with_a_length_over_one_connection(serve: Serve) -> None:
    server = serve(PLAIN)
    done = asked(server, times=3)
    assert (done.first, done.last, done.length, done.whole) == (BODY, BODY, len(BODY), BODY)
    assert server.connections == 1


# The kernel stamps by a clock that is set and slewed, the test reads one that is not.
CLOCKS_APART_NS = 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the time of arrival on Linux")
@pytest.mark.parametrize("length", [30, 300_000])
def test_a_busy_process_knows_when_the_answer_arrived(serve: Serve, length: int) -> None:
    body = b"x" * length

    def answer(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        time.sleep(0.2)
        sending.append(time.monotonic_ns())
        connection.sendall(body)
        sent.set()
        return True

    def busy() -> None:
        sent.wait(20.0)  # the process's own: nothing else runs on its loop meanwhile
        time.sleep(0.3)

    sending: list[int] = []
    sent = threading.Event()
    server = lean_http.Server(serve(answer).url)
    connection = lean_http.connect(server, 20.0)
    hog = (
        gevent.spawn_later(0.1, busy) if length < 1000 else None
    )  # a long answer has no room until it is read
    assert connection.exchange(server.request("/", {}, b"{}")) == 200
    late = connection.late_ns()
    now = time.monotonic_ns()
    assert late is not None
    assert now - late >= sending[0] - CLOCKS_APART_NS  # not before it was sent
    assert late >= (250_000_000 if hog else 0)
    connection.close()


def test_the_ends_of_a_long_answer_are_kept(serve: Serve) -> None:
    body = bytes(range(256)) * 20_000  # 5 MB, in many pieces
    server = serve(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    done = asked(server, times=2)
    assert done.length == len(body)
    assert done.first[: lean_http.FIRST_BYTES] == body[: len(done.first)][: lean_http.FIRST_BYTES]
    assert done.last == body[-lean_http.LAST_BYTES :]
    assert done.whole == body


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_an_answer_that_drips_is_put_together(serve: Serve, step: int) -> None:
    def drip(connection: socket.socket, _: bytes) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(PLAIN), step):
            connection.sendall(PLAIN[at : at + step])
            time.sleep(0.0005)
        return True

    assert asked(serve(drip), times=2).whole == BODY


@pytest.mark.parametrize("step", [1, 5, 100_000])
def test_chunks_are_joined(serve: Serve, step: int) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(BODY), 9):
        part = BODY[at : at + 9]
        chunked += b"%x;note=1\r\n%s\r\n" % (len(part), part)
    chunked += b"0\r\nX-Trailer: yes\r\n\r\n"

    def send(connection: socket.socket, _: bytes) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(chunked), step):
            connection.sendall(chunked[at : at + step])
        return True

    server = serve(send)
    done = asked(server, times=3)
    assert (done.whole, done.length, done.last) == (BODY, len(BODY), BODY)
    assert server.connections == 1


def test_interim_answers_are_skipped(serve: Serve) -> None:
    assert asked(serve(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN), times=2).whole == BODY


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 30\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 30\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_a_connection_that_ends_with_its_answer_is_made_anew(serve: Serve, head: bytes) -> None:
    def once(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(head + BODY)
        return False

    server = serve(once)
    assert asked(server, times=3).whole == BODY
    assert server.connections == 3


def test_a_connection_closed_without_a_word_is_no_error_of_the_next_request(serve: Serve) -> None:
    closed = threading.Event()

    def once(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(PLAIN)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()
        return False

    server = serve(once)
    target = lean_http.Server(server.url)
    connection = lean_http.connect(target, 20)
    request = target.request("/", {}, b"{}")
    for _ in range(3):
        assert connection.exchange(request) == 200
        assert closed.wait(10)
        closed.clear()
    connection.close()
    assert server.connections == 3


def test_no_whole_answer_in_time_is_a_timeout_and_the_next_one_is_well(serve: Serve) -> None:
    silent = [True]

    def sometimes(connection: socket.socket, _: bytes) -> bool:
        if silent[0]:
            silent[0] = False
            connection.sendall(PLAIN[:-3])
            connection.recv(1)  # until the other side gives up
            return False
        connection.sendall(PLAIN)
        return True

    server = serve(sometimes)
    target = lean_http.Server(server.url)
    connection = lean_http.connect(target, 0.2)
    request = target.request("/", {}, b"{}")
    with pytest.raises(lean_http.Broken) as caught:
        connection.exchange(request)
    assert caught.value.kind == "timeout"
    connection.timeout_s = 20
    assert connection.exchange(request) == 200
    connection.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (PLAIN[:-5], "reset"),
        (PLAIN[:20], "reset"),
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "reset"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_body"),
        (b"HTTP/1.1 2xx OK\r\n\r\n", "bad_body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "bad_body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd", "bad_body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX", "bad_body"),
    ],
)
def test_what_is_no_whole_answer_is_told_apart(serve: Serve, answer: bytes, kind: str) -> None:
    def cut(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(answer)
        return False

    assert broken(serve(cut)) == kind


def test_a_reset_is_a_reset(serve: Serve) -> None:
    def reset(connection: socket.socket, _: bytes) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    assert broken(serve(reset)) == "reset"


def test_nobody_listens(serve: Serve) -> None:
    server = serve(PLAIN)
    time.sleep(0.05)  # its thread is in accept now, where closing the socket would not be enough
    server.close()
    assert broken(server) == "refused"


def test_a_long_request_arrives_whole(serve: Serve) -> None:
    seen: list[bytes] = []

    def echo(connection: socket.socket, body: bytes) -> bool:
        seen.append(body)
        connection.sendall(PLAIN)
        return True

    body = bytes(range(1, 251)) * 80_000  # 20 MB: more than a socket takes at once
    asked(serve(echo), times=2, body=body)
    assert seen == [body, body]


def test_tls_is_spoken_and_checked(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = serve(PLAIN, context)
    assert broken(server) == "tls"  # nobody vouches for it
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    connection = asked(server, times=3)
    assert connection.whole == BODY
    assert connection.late_ns() is None
    assert server.connections == 2
