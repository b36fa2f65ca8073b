"""The SentenceTransformers server in tests: requests, a server of a test's own, and a small one for all."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
MODEL = "all-minilm-l6-v2"
KEY = "sk-only-for-this-test"
WAIT_S = 200.0

TEXTS = [
    "A cat sits on the mat.",
    "你好，世界：嵌入模型的部署、压测与容量规划",
    "def mean(xs: list[float]) -> float:\n    return sum(xs) / len(xs)  # naïve",
    "🚀🔥 emoji 👩‍👩‍👧‍👦 and flags 🇯🇵 in one text",
    "Ünïcödé, ligatures ﬁ ﬂ, and a zero\u200bwidth space",
    "a",
    "It holds [SEP] and [MASK] as plain text.",
    " ".join(["throughput and latency of an embedding server"] * 60),  # 421 tokens
    "压测" * 400,
]


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.document["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert isinstance(error, dict)
        return error


def call(
    url: str,
    path: str = "/v1/embeddings",
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    key: str | None = None,
) -> Answer:
    """One request on a connection of its own; `body` is sent as it is where it is bytes, else as JSON."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    sent = dict(headers or {})
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def embed(url: str, inputs: Any, key: str | None = None, **fields: Any) -> np.ndarray:
    answer = call(url, body={"model": MODEL, "input": inputs, **fields}, key=key)
    assert answer.status == 200, answer.body
    data = answer.document["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data], np.float32)


def metric(url: str, name: str) -> float:
    """The value of one sample (its labels, if any, in the name)."""
    for line in call(url, "/metrics").body.decode().splitlines():
        found, _, value = line.rpartition(" ")
        if found == name:
            return float(value)
    return 0.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


class Process:
    """A server of a test's own; its stderr is read line by line."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploytool.st_server", "--port", "0", *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_line(self, start: str) -> str:
        def found() -> bool:
            return any(line.startswith(start) for line in self.lines) or self.process.poll() is not None

        until(found, f"a line {start!r}")
        if self.process.poll() is not None:
            self.reader.join(WAIT_S)
        matching = [line for line in self.lines if line.startswith(start)]
        assert matching, f"no line {start!r} in {self.lines}"
        return matching[0]

    @property
    def url(self) -> str:
        return self.wait_line("stage: listening on ").rpartition(" ")[2]

    def exit_code(self) -> int:
        return self.process.wait(WAIT_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def build(*flags: str, env: dict[str, str] | None = None) -> Process:
        started.append(Process(*flags, env=env))
        return started[-1]

    yield build
    for server in started:
        server.end()


POISON = 29_999  # a token whose row in the embedding table is NaN


@pytest.fixture(scope="session")
def poisoned_folder(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model with NaN as the vector of one token."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(minilm_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][POISON] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass
class Small:
    url: str
    process: Process
    long_texts: list[str] = field(
        default_factory=lambda: [f"{number} " + "word " * 250 for number in range(32)]
    )


@pytest.fixture(scope="session")
def smalls() -> Iterator[list[Small]]:
    """The small servers that were started; the last one runs, unless a test has ended it."""
    started: list[Small] = []
    yield started
    for server in started:
        server.process.end()


@pytest.fixture
def small(smalls: list[Small], poisoned_folder: Path, tmp_path: Path) -> Small:
    """One lane, room for 40 waiting texts, an API key, Matryoshka sizes, bodies up to 1 MiB, hardly any grace.

    This worker's alone; a new one where a test has ended it.
    """
    if not smalls or smalls[-1].process.process.poll() is not None:
        key = tmp_path / "key"
        key.write_text(f"{KEY}\n")
        server = Process(
            "--model", str(poisoned_folder), "--served-model-name", MODEL, "--api-key-file", str(key),
            "--threads", "1", "--max-queue", "40", "--max-texts", "32", "--max-body-mib", "1",
            "--matryoshka", "64,128", "--grace", "0.1", "--backend", "torch",
        )  # fmt: skip
        smalls.append(Small(server.url, server))
        server.wait_line("stage: ready")
    return smalls[-1]


def in_flight(small: Small, texts: list[str]) -> tuple[threading.Thread, list[Answer]]:
    """A request in a thread; returns when the server has taken it in."""
    answers: list[Answer] = []

    def send() -> None:
        body = {"model": MODEL, "input": texts, "truncate": True}
        answers.append(call(small.url, body=body, key=KEY))

    thread = threading.Thread(target=send)
    thread.start()
    until(lambda: metric(small.url, "st_server_unanswered_requests") > 0 or bool(answers), "a request inside")
    return thread, answers
