"""Requests that are almost right: valid ones with mutated fields, bytes, headers. Same seed, same requests."""

from __future__ import annotations

import json
import random
import socket
from typing import Any, NamedTuple

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**30, -(2**63), 2**64, 1.5, -0.0, float("nan"), float("inf"), "", " ", "\n\t",
    "a", "\ud800", "\x00", "\u202e\u200b", "👩‍👩‍👧‍👦", "a" * 70_000, "ab " * 5_000, "query", "float", "base64", "model",
    [], [[]], [None], [[None]], ["a", ""], ["a", 1], [1, "a"], [1, [1]], [0], [-1], [2**64], [[30_521], [30_522]],
    [[1.5]], [True], ["a"] * 3_000, [[101] * 600], {}, {"text": "a"}, [{"text": "a"}], [{"text": 1}], {"a": {}},
)  # fmt: skip
TEXTS = ["one text", "another, longer text with more words than the first", "你好，世界"]
BASES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {
        "input": TEXTS, "encoding_format": "float", "dimensions": None, "user": "me", "truncate": True,
        "input_type": "query", "prompt_name": None, "normalize": None,
    },
    "/v1/rerank": {
        "query": "a question", "documents": [*TEXTS, {"text": "one"}], "top_n": 2, "return_documents": True,
        "truncate": True,
    },
}  # fmt: skip
RAW = (
    b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"[" * 3_000, b'{"a":' * 3_000,
    b'{"input": "a", "input": 1, "model": "m"}', b'{"model": "\\ud800", "input": "a"}', b"1" * 5_000,
    b'{"input": ' + b"9" * 5_000 + b"}", b"\x00" * 100,
)  # fmt: skip
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Type", "text/plain"), ("Content-Type", ""), ("Content-Type", "application/json; charset=utf-16"),
    ("Content-Encoding", "gzip"), ("Authorization", "Bearer \xff"), ("X-Request-Id", "a" * 5_000),
    ("X-Request-Id", "\xfc"), ("Accept", "image/png"), ("Expect", "100-continue"), ("Accept-Encoding", "br"),
)  # fmt: skip
PATHS = (
    "/v1/models",
    "/v1/models/%ff",
    "/v1/models/" + "a" * 3_000,
    "/v1/embeddings/",
    "/v1/completions",
    "/%00",
    "/metrics",
)
METHODS = ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW")


class Mutated(NamedTuple):
    """What goes over the wire. `whole` False: the connection ends before the body does, no answer is due."""

    wire: bytes
    whole: bool


def mutated(chance: random.Random, model: str) -> Mutated:
    """The next request of the sequence that `chance` stands for."""
    path = chance.choice(list(BASES))
    body = _bytes(chance, {"model": model, **BASES[path]})
    method = "POST"
    headers = {"Host": "localhost", "Content-Type": "application/json", "Connection": "close"}
    if chance.random() < 0.1:
        name, value = chance.choice(HEADERS)
        headers[name] = value
    if chance.random() < 0.05:
        path = chance.choice(PATHS)
    if chance.random() < 0.05:
        method = chance.choice(METHODS)
    whole = chance.random() > 0.03
    headers["Content-Length"] = str(len(body) + (0 if whole else 10))
    if whole and chance.random() < 0.05:
        del headers["Content-Length"]
        headers["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Mutated(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body, whole)


def _bytes(chance: random.Random, document: dict[str, Any]) -> bytes:
    if chance.random() < 0.1:
        return chance.choice(RAW)
    for _ in range(chance.randint(0, 3)):
        _mutate(chance, document)
    body = bytearray(json.dumps(document, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass"))
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        at = chance.randrange(len(body))
        action = chance.randrange(3)
        if action == 0:
            body[at] = chance.randrange(256)
        elif action == 1:
            del body[at : at + chance.randint(1, 20)]
        else:
            body[at:at] = chance.randbytes(chance.randint(1, 8))
        if not body:
            break
    return bytes(body)


def _mutate(chance: random.Random, document: dict[str, Any]) -> None:
    name = chance.choice(list(document)) if document else "model"
    action = chance.randrange(5)
    if action == 0:
        document.pop(name, None)
    elif action == 1:
        document[chance.choice(("extra", "", "input", "documents", "\x00", name.upper()))] = chance.choice(
            JUNK
        )
    elif action == 2 and isinstance(document.get(name), list):
        document[name] = [*document[name], chance.choice(JUNK)]
    else:
        document[name] = chance.choice(JUNK)


def send(port: int, request: Mutated, timeout_s: float = 60) -> int | None:
    """The status of the answer; None where none was due or the server hung up. TimeoutError where it hangs."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            connection.sendall(request.wire)
            if not request.whole:
                return None
            answer = b""
            while len(answer) < len("HTTP/1.1 200"):
                if not (more := connection.recv(65_536)):
                    return None
                answer += more
                if answer.startswith(b"HTTP/1.1 100"):
                    answer = answer.partition(b"\r\n\r\n")[2]
        except ConnectionError:  # refused before it was all sent
            return None
        return int(answer[9:12])
