"""A small SentenceTransformers server: key, sizes, a full queue, clients that go, a poisoned model."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from st_serving import KEY, MODEL, POISON, TEXTS, WAIT_S, Small, call, embed, in_flight, metric, until

pytestmark = pytest.mark.model


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/models", f"/v1/models/{MODEL}"])
def test_without_the_key_nothing_is_served(small: Small, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    body = {"model": MODEL, "input": "a"} if path.endswith("embeddings") else None
    answer = call(small.url, path, body, headers=headers)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.body.decode()


def test_with_the_key_everything_is_served(small: Small) -> None:
    assert embed(small.url, "a", key=KEY).shape == (1, 384)
    assert call(small.url, "/v1/models", key=KEY).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_need_no_key(small: Small, path: str) -> None:
    assert call(small.url, path).status == 200


def test_the_key_is_in_no_log_and_not_in_the_environment_of_the_process(small: Small) -> None:
    assert all(KEY not in line for line in small.process.lines)
    assert KEY.encode() not in Path(f"/proc/{small.process.process.pid}/cmdline").read_bytes()


@pytest.mark.parametrize("size", [64, 128])
def test_dimensions_are_cut_and_renormalised(small: Small, size: int) -> None:
    full = embed(small.url, TEXTS[:3], key=KEY)
    cut = embed(small.url, TEXTS[:3], key=KEY, dimensions=size)
    expected = full[:, :size] / np.linalg.norm(full[:, :size], axis=1, keepdims=True)
    assert cut.shape == (3, size)
    assert np.abs(cut - expected).max() < 1e-6


@pytest.mark.parametrize("size", [32, 63, 256, 383, 385, 10**30])
def test_other_dimensions_are_told_which_exist(small: Small, size: int) -> None:
    answer = call(small.url, body={"model": MODEL, "input": "a", "dimensions": size}, key=KEY)
    assert (answer.status, answer.error["code"]) == (400, "invalid_dimensions")
    assert "64, 128, and the full 384" in answer.error["message"]


def test_a_body_over_the_limit_is_refused_also_without_a_length(small: Small) -> None:
    body = json.dumps({"model": MODEL, "input": "a" * (1 << 20)}).encode()
    assert call(small.url, body=body, key=KEY).error["code"] == "body_too_large"
    with socket.create_connection(("127.0.0.1", int(small.url.rpartition(":")[2])), WAIT_S) as raw:
        raw.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        answer = b""
        try:
            for _ in range(33):
                raw.sendall(chunk)
            answer = raw.recv(200)
        except ConnectionError:
            pytest.fail("the connection was torn before the answer")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_vector_with_nan_is_an_error_that_names_the_text(small: Small) -> None:
    answer = call(small.url, body={"model": MODEL, "input": [[101, 5], [101, POISON]]}, key=KEY)
    assert (answer.status, answer.error["code"]) == (500, "not_finite")
    assert answer.error["param"] == "input[1]"
    assert answer.error["type"] == "server_error"
    assert embed(small.url, [[101, 5]], key=KEY).shape == (1, 384), "the server goes on"


def test_a_full_queue_is_429_with_retry_after_and_the_rest_is_served(small: Small) -> None:
    thread, answers = in_flight(small, small.long_texts)
    answer = call(small.url, body={"model": MODEL, "input": ["a"] * 32}, key=KEY)
    assert call(small.url, "/health").status == 200
    thread.join(WAIT_S)
    assert (answer.status, answer.error["code"]) == (429, "queue_full")
    assert answer.error["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answers[0].status == 200
    assert embed(small.url, ["a"] * 32, key=KEY).shape == (32, 384)


def test_the_texts_of_a_client_that_has_gone_are_not_computed(small: Small) -> None:
    texts_before = metric(small.url, "st_server_texts_total")
    gone_before = metric(small.url, 'st_server_errors_total{error="client_gone"}')
    thread, answers = in_flight(small, small.long_texts)
    body = json.dumps({"model": MODEL, "input": ["b " * 200] * 8}).encode()
    with socket.create_connection(("127.0.0.1", int(small.url.rpartition(":")[2])), WAIT_S) as raw:
        raw.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(lambda: metric(small.url, "st_server_unanswered_requests") == 2, "the second request inside")
    until(
        lambda: metric(small.url, 'st_server_errors_total{error="client_gone"}') == gone_before + 1,
        "the client counted as gone",
    )
    thread.join(WAIT_S)
    assert answers[0].status == 200
    assert metric(small.url, "st_server_texts_total") - texts_before == len(small.long_texts)
    assert metric(small.url, "st_server_queue_texts") == 0
