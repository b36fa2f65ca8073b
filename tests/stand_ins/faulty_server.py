"""A stand-in for an embeddings server that answers right, except for one planted fault at a time.

Its vectors are hashed character n-grams: texts that share words are near, others are not. It is a real HTTP
server on a real socket (HTTP/1.1, kept-alive connections, one thread a connection) and remembers what it was
sent. `tests/test_probes.py` plants each fault and expects the check that names it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WIDTH = 256
MODEL = "stand-in"
SLOW_S = 1.5
LONG_WORK = "a text that takes long"  # alone in a request it takes SLOW_S, whatever the fault
Vector = list[float]
Document = dict[str, Any]


def embed(text: str, width: int = WIDTH) -> Vector:
    """The text's vector of length 1: signed counts of its character 1-, 2- and 3-grams, as float32."""
    return normalised(list(_counted(text))[:width])


@lru_cache(maxsize=1000)
def _counted(text: str) -> tuple[float, ...]:
    counts = [0.0] * WIDTH
    padded = f" {text.lower()} "
    for size in (1, 2, 3):
        for place in range(len(padded) - size + 1):
            digest = hashlib.blake2b(padded[place : place + size].encode(), digest_size=4).digest()
            counts[int.from_bytes(digest[:2], "big") % WIDTH] += size if digest[2] % 2 else -size
    return tuple(counts)


def normalised(vector: Vector) -> Vector:
    length = math.hypot(*vector) or 1.0
    return [struct.unpack("<f", struct.pack("<f", value / length))[0] for value in vector]


def tokens(text: str) -> int:
    return len(text) // 4 + 2


def _noisy(vector: Vector, amount: float, seed: object) -> Vector:
    noise = random.Random(str(seed))  # noqa: S311 - the same noise each time
    return normalised([value + noise.gauss(0, amount / math.sqrt(len(vector))) for value in vector])


_ticket = itertools.count()
_counting = threading.Lock()


def _by_length(vectors: list[Vector], texts: list[str]) -> list[Vector]:
    return [vectors[place] for place in sorted(range(len(texts)), key=lambda place: len(texts[place]))]


def _meaningless(vectors: list[Vector], texts: list[str]) -> list[Vector]:
    """The same for the same text, and nothing to do with what it says."""
    drawn = [_noisy([0.0] * WIDTH, 1.0, text) for text in texts]
    return [normalised(new[: len(old)]) for new, old in zip(drawn, vectors, strict=True)]


def _with_blank_nan(vectors: list[Vector], texts: list[str]) -> list[Vector]:
    return [v if t.strip() else [math.nan] * len(v) for v, t in zip(vectors, texts, strict=True)]


# What is done to the vectors of a request: (vectors, texts) -> vectors.
VECTORS: dict[str, Callable[[list[Vector], list[str]], list[Vector]]] = {
    "narrower": lambda vectors, _: [normalised(vector[:-16]) for vector in vectors],
    "last_narrower": lambda vectors, _: [*vectors[:-1], vectors[-1][: -8 if len(vectors) > 1 else None]],
    "nan": lambda vectors, _: [[math.nan, *vector[1:]] for vector in vectors],
    "not_normalised": lambda vectors, _: [[value * 3.5 for value in vector] for vector in vectors],
    "constant": lambda vectors, _: [embed("the same") for _ in vectors],
    "sorted_by_length": _by_length,
    "batch_dependent": lambda vectors, _: (
        [_noisy(vector, 0.3, len(vectors)) for vector in vectors] if len(vectors) > 12 else vectors
    ),
    "random": lambda vectors, _: [_noisy(vector, 0.3, next(_ticket)) for vector in vectors],
    "meaningless": _meaningless,
    "blank_nan": _with_blank_nan,
}  # fmt: skip


def _set(document: Document, **fields: Any) -> Document:
    return {**document, **fields}


def _rows(document: Document, change: Callable[[int, Document], Document]) -> Document:
    return _set(document, data=[change(place, row) for place, row in enumerate(document["data"])])


def _shuffled_index(document: Document) -> Document:
    count = len(document["data"])
    return _rows(document, lambda place, row: _set(row, index=(place + 1) % count))


# What is done to an embeddings answer: document -> document.
ANSWERS: dict[str, Callable[[Document], Document]] = {
    "shuffled_index": _shuffled_index,
    "unordered_data": lambda document: _set(document, data=document["data"][::-1]),
    "index_all_zero": lambda document: _rows(document, lambda _, row: _set(row, index=0)),
    "index_missing": lambda document: _rows(document, lambda _, row: {"embedding": row["embedding"]}),
    "one_too_few": lambda document: _set(document, data=document["data"][:-1] or document["data"]),
    "null_numbers": lambda document: _rows(
        document, lambda _, row: _set(row, embedding=[None, *row["embedding"][1:]])
    ),
    "words_for_numbers": lambda document: _rows(
        document, lambda _, row: _set(row, embedding=["0.1"] * WIDTH)
    ),
    "usage_missing": lambda document: {key: document[key] for key in document if key != "usage"},
    "usage_constant": lambda document: _set(document, usage={"prompt_tokens": 7, "total_tokens": 7}),
    "usage_of_first": lambda document: document,  # counted where the texts are known
    "error_with_200": lambda _: {"error": {"message": "out of memory", "code": 500}},
}  # fmt: skip

OTHERS = (
    "base64_ignored", "base64_rounded", "base64_float64", "base64_broken", "truncated_json", "html",
    "cut_off", "slow", "drips", "fails_always", "redirects", "dies_after_batch", "dies_at_once",
    "model_missing", "listing_missing", "bad_input_200", "bad_input_200_error", "bad_input_500",
    "bad_input_silent", "bad_input_not_found", "forgets_after_bad_input", "flat_errors", "detail_errors",
    "key_not_enforced", "wrong_key_accepted", "busy_with_keys", "busy_at_first",
    "echoes_key", "echoes_key_in_answer", "echoes_key_as_page",
    "dimensions_ignored", "cut_not_normalised", "last_dimensions",
    "dimensions_refused", "refuses_32", "long_500", "cached",
)  # fmt: skip
FAULTS = (*VECTORS, *ANSWERS, *OTHERS)


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class FaultyServer:
    """Runs in threads of this process while it is used as a context manager."""

    def __init__(
        self, fault: str | None = None, *, key: str | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        if fault is not None and fault not in FAULTS:
            raise ValueError(f"no fault is named {fault}")
        self.fault = fault
        self.key = key
        self.host = host
        self.requests: list[tuple[str, str, bytes]] = []
        self.keys: list[str | None] = []
        self.bad_inputs = 0
        self.busy = 0
        self.batches = 0
        self.connections = 0
        self.seen: set[str] = set()
        self.models = ["another-model" if fault == "model_missing" else MODEL]
        kind = type(
            "Server", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET}
        )
        self._http = kind((host, port), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._alive = True

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def hang(self) -> None:
        """No request is answered any more; connections are still taken."""
        _counting.acquire()

    def die(self) -> None:
        """Stops listening and breaks every connection."""
        if self._alive:
            self._alive = False
            self._http.shutdown()
            self._http.server_close()
            for connection in list(self._http.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FaultyServer

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections.add(self.connection)
        self.server.owner.connections += 1

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """The tests look at `requests` instead."""

    @property
    def fault(self) -> str | None:
        return self.server.owner.fault

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, body: bytes) -> None:
        owner = self.server.owner
        with _counting:
            owner.busy += 1
        try:
            self.answered(owner, body)
        finally:
            with _counting:
                owner.busy -= 1

    def answered(self, owner: FaultyServer, body: bytes) -> None:
        owner.requests.append((self.command, self.path, body))
        owner.keys.append(self.headers.get("authorization"))
        if self.fault == "dies_at_once":
            owner.die()
            return
        try:
            status, document = 200, self.routed(body)
        except Refusal as refusal:
            status, document = refusal.status, self.error(refusal)
        self.send(status, document)

    def routed(self, body: bytes) -> Any:
        if self.path in ("/health", "/ready"):
            return {"status": "ok"}
        self.check_key()
        if self.fault == "fails_always":
            raise Refusal(500, "CUDA error: an illegal memory access was encountered")
        if (self.command, self.path) == ("GET", "/v1/models"):
            if self.fault == "listing_missing":
                raise Refusal(404, "not found")
            models = self.server.owner.models
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
        if (self.command, self.path) != ("POST", "/v1/embeddings"):
            raise Refusal(404, "not found")
        return self.embeddings(body)

    def check_key(self) -> None:
        owner, given = self.server.owner, self.headers.get("authorization")
        if owner.key is None or self.fault == "key_not_enforced":
            return
        if given is not None and self.fault == "wrong_key_accepted":
            return
        if self.fault == "echoes_key":
            raise Refusal(401, f"the key {given} is not welcome")
        if given != f"Bearer {owner.key}":
            if self.fault == "busy_with_keys" or (
                self.fault == "busy_at_first" and owner.keys.count(given) <= 1
            ):
                raise Refusal(503, "no worker is available")
            raise Refusal(401, "invalid API key")

    def embeddings(self, body: bytes) -> Any:
        request = self.read(body)
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        owner = self.server.owner
        if texts == [LONG_WORK]:
            time.sleep(SLOW_S)
        if self.fault == "refuses_32" and len(texts) > 16:
            raise Refusal(413, "at most 16 texts a request")
        if self.fault == "long_500" and any(len(text) > 2000 for text in texts):
            raise Refusal(500, "index out of range in self")
        if len(texts) > 1 and self.fault == "dies_after_batch":
            owner.batches += 1
            if owner.batches > 1:
                owner.die()
        vectors = [self.cut(text, request.get("dimensions")) for text in texts]
        if self.fault == "forgets_after_bad_input" and owner.bad_inputs:
            vectors = [_noisy(vector, 0.5, "forgotten") for vector in vectors]
        if self.fault == "cached":
            vectors = [self.remembered(text, vector) for text, vector in zip(texts, vectors, strict=True)]
        if self.fault in VECTORS:
            vectors = VECTORS[self.fault](vectors, texts)
        packed = [self.packed(vector, request.get("encoding_format", "float")) for vector in vectors]
        used = tokens(texts[0]) if self.fault == "usage_of_first" else sum(map(tokens, texts))
        document = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(packed)
            ],
            "model": MODEL,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
        return ANSWERS[self.fault](document) if self.fault in ANSWERS else document

    def remembered(self, text: str, vector: Vector) -> Vector:
        """Right once; a text that was seen before is pooled at another token, as by a prefix cache."""
        seen, owner = text in self.server.owner.seen, self.server.owner
        owner.seen.add(text)
        return _noisy([0.0] * len(vector), 1.0, text) if seen else vector

    def read(self, body: bytes) -> Document:
        """The request, or a Refusal that says what is wrong with it."""
        try:
            request = json.loads(body)
            given = request["input"]
        except (ValueError, KeyError) as error:
            self.refuse(f"the body is not right: {error}")
            return {"input": "anything"}
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            self.refuse("input must be a text or a list of texts, and not empty")
            return {"input": "anything"}
        if request.get("encoding_format", "float") not in ("float", "base64"):
            self.refuse("encoding_format must be float or base64")
            return {"input": "anything"}
        return dict(request)

    def refuse(self, message: str) -> None:
        self.server.owner.bad_inputs += 1
        if self.fault == "bad_input_200":
            return
        status = {"bad_input_200_error": 200, "bad_input_500": 500, "bad_input_not_found": 404}
        raise Refusal(status.get(self.fault or "", 400), message)

    def cut(self, text: str, size: int | None) -> Vector:
        if size is None or self.fault == "dimensions_ignored":
            return embed(text)
        if self.fault == "dimensions_refused":
            raise Refusal(400, "this model does not support matryoshka")
        if self.fault == "cut_not_normalised":
            return embed(text)[:size]
        return normalised(embed(text)[-size:]) if self.fault == "last_dimensions" else embed(text, size)

    def packed(self, vector: Vector, encoding: str) -> Any:
        if encoding != "base64" or self.fault == "base64_ignored":
            return vector
        if self.fault == "base64_broken":
            return "not base64!"
        if self.fault == "base64_rounded":
            vector = [round(value, 3) for value in vector]
        letter = "d" if self.fault == "base64_float64" else "f"
        return base64.b64encode(struct.pack(f"<{len(vector)}{letter}", *vector)).decode()

    def error(self, refusal: Refusal) -> Any:
        if self.fault == "flat_errors":
            return {
                "object": "error",
                "message": refusal.message,
                "type": "BadRequest",
                "code": refusal.status,
            }
        if self.fault == "detail_errors":
            return {"detail": [{"loc": ["body", "input"], "msg": refusal.message}]}
        if self.fault == "bad_input_silent":
            return {}
        return {
            "error": {"message": refusal.message, "type": "invalid_request_error", "code": refusal.status}
        }

    def send(self, status: int, document: Any) -> None:
        text = json.dumps(document).encode()
        posted = self.command == "POST"
        kind = "application/json"
        if self.fault == "truncated_json" and posted:
            text = text[: len(text) // 2]
        if self.fault == "echoes_key_in_answer":
            text = json.dumps({"error": f"hello {self.headers.get('authorization')}"}).encode()
        if self.fault == "echoes_key_as_page":
            text, kind = f"<p>{self.headers.get('authorization')}".encode(), "text/html"
        if self.fault == "html":
            text, kind = b"<html><body>It works!</body></html>", "text/html"
        if self.fault == "slow" and posted:
            time.sleep(SLOW_S)
        self.send_response(307 if self.fault == "redirects" else status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.fault == "cut_off" and posted:
            self.wfile.write(text[:20])
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.fault == "drips" and posted:
            for place in range(len(text)):
                self.wfile.write(text[place : place + 1])
                time.sleep(0.02)
        else:
            self.wfile.write(text)
