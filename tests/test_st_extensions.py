"""What the server takes beyond OpenAI's API: prompts, normalize, request ids, logs, its description."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploytool.st_server import config, prompts
from deploytool.st_server.errors import RequestError
from deploytool.st_server.request_log import request_id

ROOT = Path(__file__).resolve().parent.parent
MODEL = "prompted"
pytestmark = pytest.mark.model


@dataclass
class Running:
    port: int
    lines: list[str]

    def call(
        self, body: Any = None, path: str = "/v1/embeddings", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            sent = None if body is None else json.dumps({"model": MODEL, **body})
            connection.request("GET" if body is None else "POST", path, sent, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(answer.read())

    def rows(self, inputs: Any, **fields: Any) -> np.ndarray:
        status, _, document = self.call({"input": inputs, **fields})
        assert status == 200, document
        return np.array([entry["embedding"] for entry in document["data"]], np.float32)


@pytest.fixture(scope="module")
def server(
    minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory, run_folder: Path
) -> Iterator[Running]:
    """The real model without its normalisation, with prompts of its own and one from a flag."""
    folder = tmp_path_factory.mktemp("prompted") / "model"
    shutil.copytree(minilm_folder, folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    described = {"prompts": {"query": "query: ", "code": "code: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(described))
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool.st_server", "--model", str(folder), "--served-model-name", MODEL,
         "--port", "0", "--backend", "torch", "--document-prompt", "passage: ", "--log-json",
         "--body-timeout", "2"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "DEPLOYTOOL_CACHE": str(run_folder / "exports")},
    )  # fmt: skip
    lines: list[str] = []

    def collect() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        until(lambda: "stage: ready" in lines or process.poll() is not None)
        assert "stage: ready" in lines, lines
        yield Running(int(lines[0].rpartition(":")[2]), lines)
    finally:
        process.terminate()
        process.wait(30)
        thread.join(10)
        if process.stderr is not None:
            process.stderr.close()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() < 1e-4)


def test_a_prompt_is_the_text_before_the_text(server: Running) -> None:
    plain = server.rows("a red fox")
    query = server.rows("a red fox", input_type="query")
    assert same(query, server.rows("query: a red fox"))
    assert not same(query, plain)
    assert same(server.rows("a red fox", input_type="document"), server.rows("passage: a red fox"))
    assert same(server.rows("a red fox", prompt_name="code"), server.rows("code: a red fox"))
    assert same(server.rows("a red fox", input_type=None, prompt_name=None), plain)


def test_normalize_brings_vectors_to_length_one(server: Running) -> None:
    plain = server.rows(["a red fox", "b"])
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).min() > 0.01
    unit = server.rows(["a red fox", "b"], normalize=True)
    assert same(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True))
    assert same(server.rows(["a red fox", "b"], normalize=False), plain)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": "a", "input_type": "passage"}, "input_type", "invalid_input_type"),
        ({"input": "a", "input_type": ["query"]}, "input_type", "invalid_input_type"),
        ({"input": "a", "prompt_name": "other"}, "prompt_name", "unknown_prompt"),
        ({"input": "a", "prompt_name": 5}, "prompt_name", "invalid_type"),
        ({"input": "a", "prompt_name": "code", "input_type": "query"}, "prompt_name", None),
        ({"input": [101, 5], "input_type": "query"}, "input_type", "prompt_with_token_ids"),
        ({"input": [[101, 5]], "prompt_name": "code"}, "prompt_name", "prompt_with_token_ids"),
        ({"input": "a", "normalize": "yes"}, "normalize", "invalid_type"),
    ],
)
def test_a_wrong_extension_is_told(server: Running, body: Any, param: str, code: str | None) -> None:
    status, _, document = server.call(body)
    assert (status, document["error"]["param"], document["error"]["code"]) == (400, param, code)


def test_a_normalising_model_cannot_be_asked_not_to(minilm_server: Any) -> None:
    host, port = minilm_server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    with contextlib.closing(connection):
        body = json.dumps({"model": minilm_server.model, "input": "a", "normalize": False})
        connection.request("POST", "/v1/embeddings", body)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (400, "always_normalized")


def test_prompts_that_a_pooling_leaves_out_are_refused(minilm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm_folder, folder)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    found = prompts.read(folder, config.parse(["--model", str(folder), "--query-prompt", "q: "], {}))
    with pytest.raises(RequestError, match="leaves prompts out"):
        found.choose("query", None)
    assert found.choose("document", None) == ""
    assert found.choose(None, None) is None


def test_every_answer_has_a_request_id(server: Running) -> None:
    _, headers, _ = server.call({"input": "a"}, headers={"X-Request-Id": "from-the-client.7"})
    assert headers["x-request-id"] == "from-the-client.7"
    status, headers, _ = server.call({"input": ""}, headers={"X-Request-Id": "no good\tid"})
    assert status == 400
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
    assert request_id("x" * 129) != "x" * 129


def test_the_json_log_counts_and_keeps_no_text(server: Running) -> None:
    server.call({"input": ["my secret text", "another"]}, headers={"X-Request-Id": "log-1"})
    server.call({"input": ["my secret text", 4]}, headers={"X-Request-Id": "log-2"})
    until(lambda: any('"log-2"' in line for line in server.lines))
    found = {
        entry["request_id"]: entry
        for entry in (json.loads(line) for line in server.lines if line.startswith("{"))
    }
    assert (found["log-1"]["status"], found["log-1"]["texts"], found["log-1"]["error"]) == (200, 2, None)
    assert found["log-1"]["tokens"] > 2 and found["log-1"]["ms"] > 0
    assert (found["log-2"]["status"], found["log-2"]["error"]) == (400, "invalid_type")
    assert not any("secret" in line for line in server.lines)


def test_a_body_that_does_not_come_is_given_up(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 60) as raw:
        raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert raw.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert server.rows("still here").shape == (1, 384)


def test_the_description_holds_against_generated_requests(server: Running) -> None:
    """schemathesis: no 5xx, no undocumented status, answers as described."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    ]  # fmt: skip
    answered: set[int] = set()
    for operation in described.get_all_operations():
        assert isinstance(operation, Ok), operation
        strategy = operation.ok().as_strategy()

        @settings(
            max_examples=25, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=strategy)
        def check(case: Any) -> None:
            if case.path.endswith("embeddings") and isinstance(case.body, dict):
                case.body["model"] = MODEL
            answer = case.call()
            answered.add(answer.status_code)
            case.validate_response(answer, checks=checks)

        check()
    assert {200, 400} <= answered
