"""What the door refuses, what it lets in, and that its answers are the application's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from deploytool.st_server import config
from deploytool.st_server.batcher import Batcher
from deploytool.st_server.door import Door
from deploytool.st_server.errors import OutOfMemory
from deploytool.st_server.jobs import Job
from deploytool.st_server.metrics import Metrics
from deploytool.st_server.packing import Limits
from deploytool.st_server.service import Service

KEY = "k" * 24


def service(*, waiting: int, key: str | None = None, log_json: bool = False) -> Service:
    """Ready, with room for two texts and `waiting` of them; its lanes were not started."""
    flags = ["--model", "/", "--max-queue", "2", *(["--log-json"] if log_json else [])]
    made = Service(config.parse(flags, {"DEPLOYTOOL_API_KEY": key} if key else {}), Metrics(), lambda _: None)

    def compute(batch: object, *, alone: bool) -> Any:
        raise OutOfMemory("never called")

    batcher = Batcher(
        compute, made.metrics, limits=Limits(64, 8), max_waiting=made.config.max_queue, on_lost=lambda _: None
    )
    for _ in range(waiting):
        batcher.submit(Job([[1, 2, 3]], lambda _: None))
    made._batcher, made.state = batcher, "ready"
    return made


def call(
    made: Service, path: str = "/v1/embeddings", method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The answer; 299 is the inner application's."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the door reads nothing")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Door(inner, made)(scope, receive, send))
    start, body = sent
    given = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], given, body["body"]


def test_a_full_queue_is_answered_without_the_application() -> None:
    made = service(waiting=2)
    status, headers, body = call(made, x_request_id="mine-1")
    assert (status, headers["retry-after"], headers["x-request-id"]) == (429, "1", "mine-1")
    assert headers["content-length"] == str(len(body)) and "connection" not in headers
    assert json.loads(body)["error"] == {
        "message": "the queue of 2 texts has no room for this request; try again later",
        "type": "rate_limit_error", "param": None, "code": "queue_full",
    }  # fmt: skip
    assert call(made)[1]["x-request-id"] != call(made)[1]["x-request-id"]
    text = made.metrics.render().decode()
    assert 'st_server_requests_total{path="/v1/embeddings",status="429"} 3.0' in text
    assert 'st_server_errors_total{error="queue_full"} 3.0' in text


@pytest.mark.parametrize("waiting", [0, 1])
def test_where_there_is_room_everything_passes(waiting: int) -> None:
    made = service(waiting=waiting)
    assert call(made)[0] == 299
    assert call(made, path="/v1/rerank")[0] == 299


def test_only_what_would_be_computed_is_refused() -> None:
    made = service(waiting=2)
    assert call(made, path="/v1/rerank")[0] == 429
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/v1/embeddings/"):
        assert call(made, path=path)[0] == 299
    assert call(made, method="GET")[0] == 299  # a 405, which is the application's to say


@pytest.mark.parametrize("state", ["loading", "stopping", "failed"])
def test_a_server_that_is_not_ready_says_so_and_closes(state: Any) -> None:
    made = service(waiting=0)
    made.state = state
    status, headers, body = call(made)
    assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "5")
    assert json.loads(body)["error"]["code"] == state


def test_nobody_without_the_key_learns_of_the_queue() -> None:
    made = service(waiting=2, key=KEY)
    assert call(made)[0] == call(made, authorization="Bearer no")[0] == 299  # its 401
    assert call(made, authorization=f"Bearer {KEY}")[0] == 429


def test_a_refusal_is_logged_as_any_answer(capfd: pytest.CaptureFixture[str]) -> None:
    call(service(waiting=2, log_json=True), x_request_id="mine-2")
    line = json.loads(capfd.readouterr().err)
    assert (line["request_id"], line["status"], line["error"]) == ("mine-2", 429, "queue_full")
