"""Refusals that uvicorn never parses: what is taken for a whole request, and the connection around it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from test_st_door import KEY, service

from deploytool.st_server.door import Door, protocol, whole_request
from deploytool.st_server.service import Service

BODY = b'{"input": "a"}'
LINE = b"POST /v1/embeddings HTTP/1.1"
LENGTH = b"Content-Length: 14"


def request(*headers: bytes, line: bytes = LINE, body: bytes = BODY) -> bytes:
    return b"\r\n".join([line, b"Host: here", *headers, b"", body])


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request and says that it was let in."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def serving(made: Service, **settings: Any) -> Iterator[socket.socket]:
    """A client's connection to a server of this service."""
    server = uvicorn.Server(
        uvicorn.Config(
            Door(application, made),
            http=protocol(made),
            ws="none",
            lifespan="off",
            server_header=False,
            log_config=None,
            **settings,
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def statuses(client: socket.socket, count: int) -> list[int]:
    """Of so many answers; what comes after them is an error."""
    found: list[int] = []
    got = b""
    while len(found) < count:
        piece = client.recv(65536)
        assert piece, f"the connection ended after {found}"
        got += piece
        while (end := got.find(b"\r\n\r\n")) >= 0:
            head = got[:end].lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(got) < end + 4 + length:
                break
            found.append(int(head[9:12]))
            got = got[end + 4 + length :]
    assert got == b""
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    return found


def test_a_whole_request_is_known_with_its_headers() -> None:
    found = whole_request(request(LENGTH, b"X-Request-Id:  mine ", b"connection: Keep-Alive"))
    assert found is not None
    path, headers = found
    assert path == "/v1/embeddings"
    assert headers[b"x-request-id"] == b"mine"
    rerank = whole_request(request(LENGTH, line=b"POST /v1/rerank HTTP/1.1"))
    assert rerank is not None
    assert rerank[0] == "/v1/rerank"


@pytest.mark.parametrize(
    "data",
    [
        request(LENGTH, line=b"GET /v1/embeddings HTTP/1.1"),
        request(LENGTH, line=b"POST /v1/embeddings HTTP/1.0"),
        request(LENGTH, line=b"POST /v1/embeddings?a=b HTTP/1.1"),
        request(LENGTH, line=b"POST /v1/models HTTP/1.1"),
        request(),
        request(LENGTH, body=BODY[:-1]),
        request(LENGTH, body=BODY + b"P"),
        request(LENGTH, LENGTH),
        request(b"Content-Length: +14"),
        request(b"Content-Length: 0x0e"),
        request(LENGTH, b"Transfer-Encoding: chunked"),
        request(LENGTH, b"Expect: 100-continue"),
        request(LENGTH, b"Upgrade: websocket"),
        request(LENGTH, b"Connection: close"),
        request(LENGTH, b" folded: line"),
        request(LENGTH, b"Name : value"),
        request(LENGTH, b"no colon"),
        request(LENGTH, b"X: a\nContent-Length: 2"),
        request(LENGTH, b"X: a\rContent-Length: 2"),
        request(LENGTH, b"X: " + b"a" * 5000),
        b"",
        b"\r\n" + request(LENGTH),
    ],
)
def test_of_anything_else_the_parser_is_asked(data: bytes) -> None:
    assert whole_request(data) is None


def test_one_connection_is_refused_again_and_again() -> None:
    with serving(service(waiting=2)) as client:
        for _ in range(3):
            client.sendall(request(LENGTH))
            assert statuses(client, 1) == [429]


def test_refused_in_one_piece_or_in_two_the_answer_is_the_same() -> None:
    answers = []
    with serving(service(waiting=2), date_header=False) as client:
        whole = request(LENGTH, b"X-Request-Id: mine")
        for pieces in ([whole], [whole[:-14], whole[-14:]]):
            for piece in pieces:
                client.sendall(piece)
            answers.append(client.recv(65536))
            while b"queue_full" not in answers[-1]:
                answers[-1] += client.recv(65536)
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nretry-after: 1\r\n" in answers[0]


def test_the_rest_of_a_refused_request_is_not_taken_for_another_one() -> None:
    """Its head is refused before its body is there; the body may look like a request."""
    inner = request(LENGTH)
    with serving(service(waiting=2)) as client:
        client.sendall(request(b"Content-Length: %d" % len(inner), body=b""))
        assert statuses(client, 1) == [429]
        client.sendall(inner)
        assert client.send(request(LENGTH)) > 0
        assert statuses(client, 1) == [429]


def test_requests_in_one_piece_are_all_answered() -> None:
    with serving(service(waiting=2)) as client:
        client.sendall(request(LENGTH) * 3)
        assert statuses(client, 3) == [429, 429, 429]


def test_where_there_is_room_all_comes_to_the_application() -> None:
    with serving(service(waiting=0)) as client:
        client.sendall(request(LENGTH))
        assert statuses(client, 1) == [299]


def test_without_the_key_it_is_the_applications_to_say() -> None:
    with serving(service(waiting=2, key=KEY)) as client:
        client.sendall(request(LENGTH))
        assert statuses(client, 1) == [299]
        client.sendall(request(LENGTH, f"Authorization: Bearer {KEY}".encode()))
        assert statuses(client, 1) == [429]


def test_a_connection_that_was_refused_lives_as_long_as_others() -> None:
    made = service(waiting=0)
    with serving(made, timeout_keep_alive=2) as client:
        client.sendall(request(LENGTH))
        assert statuses(client, 1) == [299]  # its timer runs from here
        full = service(waiting=2)
        made._batcher = full._batcher
        for _ in range(12):
            client.sendall(request(LENGTH))
            assert statuses(client, 1) == [429]  # takes .2 s
        assert client.recv(1) == b""
