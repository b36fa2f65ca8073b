"""The SentenceTransformers server: the real process, the real model, real sockets."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_requests import mutated, send

if TYPE_CHECKING:
    from conftest import Planted, Served

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

pytestmark = pytest.mark.model


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


# --- vectors --------------------------------------------------------------------------------------


@pytest.fixture
def reference(planted: Planted) -> np.ndarray:
    """What SentenceTransformer.encode gives for TEXTS, one by one, in a process of its own."""
    answers = [call(planted.url, "/right/v1/embeddings", {"input": text}).document for text in TEXTS]
    return np.array([answer["data"][0]["embedding"] for answer in answers], np.float32)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product = (left * right).sum(axis=1)
    result: np.ndarray = product / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return result


def test_vectors_are_those_of_encode(minilm_server: Served, reference: np.ndarray) -> None:
    ours = embed(minilm_server.url, TEXTS, truncate=True)
    assert ours.shape == reference.shape == (len(TEXTS), 384)
    assert cosines(ours, reference).min() >= 0.9999
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5


def test_a_text_has_the_same_vector_alone_and_among_32(minilm_server: Served) -> None:
    alone = np.concatenate([embed(minilm_server.url, text, truncate=True) for text in TEXTS])
    filler = [f"{'filler ' * (number * 5 % 90)}{number}" for number in range(32 - len(TEXTS))]
    among = embed(minilm_server.url, filler + TEXTS, truncate=True)[-len(TEXTS) :]
    assert cosines(alone, among).min() >= 0.99999
    assert np.abs(alone - among).max() < 1e-5


def test_token_ids_give_the_vectors_of_their_text(minilm_server: Served, minilm_folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [tokenizer.encode(text).ids for text in TEXTS[:3]]
    texts = embed(minilm_server.url, TEXTS[:3])
    assert cosines(embed(minilm_server.url, ids), texts).min() >= 0.99999
    assert cosines(embed(minilm_server.url, ids[1]), texts[1:2]).min() >= 0.99999


def test_base64_holds_the_same_numbers_as_float(minilm_server: Served) -> None:
    floats = embed(minilm_server.url, TEXTS[:4])
    answer = call(
        minilm_server.url, body={"model": MODEL, "input": TEXTS[:4], "encoding_format": "base64"}
    ).document
    decoded = np.stack([np.frombuffer(base64.b64decode(e["embedding"]), "<f4") for e in answer["data"]])
    assert np.abs(decoded - floats).max() < 1e-6


def test_float_answers_lose_no_bit() -> None:
    from deploytool.st_server import vectors

    rows = np.random.default_rng(5).normal(0, 0.05, (40, 384)).astype(np.float32)
    rows[0, :4] = [1e-30, -1e-9, 3.4e38, 0.0]
    body = json.loads(vectors.response(rows, model='a"b', prompt_tokens=3, as_base64=False))
    back = np.array([entry["embedding"] for entry in body["data"]], np.float32)
    assert (back == rows).all()
    assert body["model"] == 'a"b'


def test_the_answer_has_openais_shape_and_counts_tokens(minilm_server: Served) -> None:
    answer = call(minilm_server.url, body={"model": MODEL, "input": ["hello world", "hello"], "user": "u"})
    document = answer.document
    assert answer.headers["content-type"] == "application/json"
    assert document["object"] == "list"
    assert document["model"] == MODEL
    assert [entry["object"] for entry in document["data"]] == ["embedding", "embedding"]
    assert document["usage"] == {"prompt_tokens": 4 + 3, "total_tokens": 4 + 3}  # with [CLS] and [SEP]


def test_the_model_is_known_by_its_id_too(minilm_server: Served, minilm_folder: Path) -> None:
    answer = call(minilm_server.url, body={"model": str(minilm_folder), "input": "x"})
    assert answer.document["model"] == MODEL


def test_openai_python_works_unchanged(minilm_server: Served) -> None:
    with openai.OpenAI(base_url=f"{minilm_server.url}/v1", api_key="unused", max_retries=0) as client:
        plain = client.embeddings.create(model=MODEL, input=TEXTS[:3])
        floats = client.embeddings.create(model=MODEL, input=TEXTS[:3], encoding_format="float")
        assert cosines(
            np.array([entry.embedding for entry in plain.data]),
            np.array([entry.embedding for entry in floats.data]),
        ).min() == pytest.approx(1.0, abs=1e-6)
        assert plain.usage.prompt_tokens == floats.usage.prompt_tokens > 0
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="other", input="x")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as empty:
            client.embeddings.create(model=MODEL, input="")
        assert empty.value.param == "input"


def test_many_clients_get_their_own_vectors(minilm_server: Served) -> None:
    texts = [f"client {number} asks about {'things ' * (number % 17)}" for number in range(48)]
    expected = embed(minilm_server.url, texts)
    got: dict[int, np.ndarray] = {}

    def client(first: int) -> None:
        for number in range(first, len(texts), 12):
            got[number] = embed(minilm_server.url, texts[number])

    threads = [threading.Thread(target=client, args=(first,)) for first in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    ours = np.concatenate([got[number] for number in range(len(texts))])
    assert cosines(ours, expected).min() >= 0.99999


# --- the other paths ------------------------------------------------------------------------------


def test_models_tells_length_and_dimensions(minilm_server: Served) -> None:
    (model,) = call(minilm_server.url, "/v1/models").document["data"]
    assert model["id"] == MODEL
    assert (model["max_model_len"], model["dimensions"]) == (256, 384)
    assert call(minilm_server.url, f"/v1/models/{MODEL}").document == model
    assert call(minilm_server.url, "/v1/models/other").error["code"] == "model_not_found"


def test_health_and_ready(minilm_server: Served) -> None:
    assert call(minilm_server.url, "/health").document == {"status": "alive"}
    answer = call(minilm_server.url, "/ready")
    assert (answer.status, answer.document["status"]) == (200, "ready")
    assert answer.document["warmed_mib"] is None  # no card's memory was reserved


def test_metrics_count_what_was_computed(small: Small) -> None:
    names = ("st_server_texts_total", "st_server_tokens_total", "st_server_batch_texts_sum")
    before = [metric(small.url, name) for name in names]
    embed(small.url, ["hello world", "hello"], key=KEY)
    after = [metric(small.url, name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 7, 2]
    text = call(small.url, "/metrics").body.decode()
    for name in (
        "queue_texts",
        "queue_wait_seconds_bucket",
        "batch_fill_ratio_bucket",
        "inference_seconds_sum",
        "requests_total",
        "model_info",
        "ready 1.0",
    ):
        assert f"st_server_{name}" in text


def test_the_log_holds_stages_and_no_text_of_a_user(minilm_server: Served) -> None:
    embed(minilm_server.url, "a very secret sentence")
    call(minilm_server.url, body={"model": MODEL, "input": ["another secret", 3]})
    lines = minilm_server.log.read_text().splitlines()
    stages = [line for line in lines if line.startswith("stage: ")]
    assert "stage: importing onnx" in stages
    assert stages[-4:] == [
        "stage: loading model", "stage: comparing vectors", "stage: warming up", "stage: ready"
    ]  # fmt: skip
    # What other tests sent meanwhile may not even have been HTTP.
    known = ("stage: ", "note: ", "Invalid HTTP request received.")
    assert [line for line in lines if not line.startswith(known)] == []


# --- bad input ------------------------------------------------------------------------------------

BAD_INPUT: dict[str, tuple[Any, int, str | None]] = {
    "empty string": ({"input": ""}, 400, "empty_input"),
    "blank string": ({"input": " \n\t"}, 400, "empty_input"),
    "empty list": ({"input": []}, 400, "empty_input"),
    "empty string in a list": ({"input": ["a", ""]}, 400, "empty_input"),
    "empty list of ids": ({"input": [[]]}, 400, "empty_input"),
    "one of the lists empty": ({"input": [[1], []]}, 400, "empty_input"),
    "no input": ({}, 400, "missing_field"),
    "null input": ({"input": None}, 400, "missing_field"),
    "number": ({"input": 3.5}, 400, "invalid_type"),
    "object": ({"input": {"text": "a"}}, 400, "invalid_type"),
    "true": ({"input": True}, 400, "invalid_type"),
    "list of true": ({"input": [True]}, 400, "invalid_type"),
    "list of null": ({"input": [None]}, 400, "invalid_type"),
    "text and number": ({"input": ["a", 1]}, 400, "invalid_type"),
    "number and text": ({"input": [1, "a"]}, 400, "invalid_type"),
    "ids and text": ({"input": [[1], "a"]}, 400, "invalid_type"),
    "float id": ({"input": [1.5]}, 400, "invalid_type"),
    "float id later": ({"input": [1, 2.0]}, 400, "invalid_type"),
    "true among ids": ({"input": [[1, True]]}, 400, "invalid_type"),
    "three levels": ({"input": [[[1]]]}, 400, "invalid_type"),
    "id out of vocabulary": ({"input": [30522]}, 400, "token_out_of_vocabulary"),
    "negative id": ({"input": [[5, -1]]}, 400, "token_out_of_vocabulary"),
    "huge id": ({"input": [10**4000]}, 400, "token_out_of_vocabulary"),
    "too long": ({"input": "word " * 300}, 400, "context_length_exceeded"),
    "too many ids": ({"input": [[5] * 257]}, 400, "context_length_exceeded"),
    "too many texts": ({"input": ["a"] * 2049}, 400, "too_many_texts"),
    "lone surrogate": ({"input": ["a", "\ud800"]}, 400, "invalid_text"),
    "unknown encoding": ({"input": "a", "encoding_format": "hex"}, 400, None),
    "encoding of a wrong type": ({"input": "a", "encoding_format": ["float"]}, 400, None),
    "dimensions of a model that has one size": ({"input": "a", "dimensions": 128}, 400, "invalid_dimensions"),
    "no dimensions": ({"input": "a", "dimensions": 0}, 400, None),
    "dimensions as text": ({"input": "a", "dimensions": "384"}, 400, None),
    "dimensions true": ({"input": "a", "dimensions": True}, 400, None),
    "user of a wrong type": ({"input": "a", "user": 5}, 400, "invalid_type"),
    "truncate of a wrong type": ({"input": "a", "truncate": "yes"}, 400, "invalid_type"),
    "unknown field": ({"input": "a", "dimension": 64}, 400, "unknown_field"),
    "another model": ({"input": "a", "model": "other"}, 404, "model_not_found"),
    "model of a wrong type": ({"input": "a", "model": 1}, 400, "invalid_type"),
    "no model": ({"input": "a", "model": None}, 400, "missing_field"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_told_what_is_wrong(minilm_server: Served, name: str) -> None:
    body, status, code = BAD_INPUT[name]
    answer = call(minilm_server.url, body={"model": MODEL, **body})
    assert (answer.status, answer.error["code"]) == (status, code), answer.error
    assert len(answer.error["message"]) < 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b"[]",
        b'"a"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"input": 1' + b"0" * 5000,
    ],
    ids=["empty", "cut", "words", "list", "string", "null", "binary", "deep", "long number"],
)
def test_a_body_that_is_no_request_is_refused(minilm_server: Served, body: bytes) -> None:
    answer = call(minilm_server.url, body=body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


def test_messages_name_the_place_and_the_limits(minilm_server: Served) -> None:
    def message(body: dict[str, Any]) -> str:
        return str(call(minilm_server.url, body={"model": MODEL, **body}).error["message"])

    assert "input[1] has 302 tokens; the model reads 256" in message({"input": ["a", "word " * 300]})
    assert "input[0] has 257 tokens; the model reads 256" in message({"input": [5] * 257})
    assert "384 only" in message({"input": "a", "dimensions": 128})
    assert "the model's ids are 0 to 30521" in message({"input": [30522]})
    assert "this server takes 2048" in message({"input": ["a"] * 2049})


def test_what_is_at_the_limit_is_served(minilm_server: Served) -> None:
    assert embed(minilm_server.url, [[5] * 256, [30521], [0]]).shape == (3, 384)
    assert embed(minilm_server.url, ["word " * 254], dimensions=384).shape == (1, 384)
    assert embed(minilm_server.url, [[5] * 300], truncate=True).shape == (1, 384)


@pytest.mark.parametrize(
    ("path", "method", "headers", "status", "code"),
    [
        ("/v1/embeddings", "GET", {}, 405, "method_not_allowed"),
        ("/v1/embeddings", "DELETE", {}, 405, "method_not_allowed"),
        ("/v1/models", "POST", {}, 405, "method_not_allowed"),
        ("/v1/nothing", "GET", {}, 404, "not_found"),
        ("/", "GET", {}, 404, "not_found"),
        ("/v1/embeddings", "POST", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("/v1/embeddings", "POST", {"Content-Type": "multipart/form-data"}, 415, "unsupported_media_type"),
        ("/v1/embeddings", "POST", {"Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
        ("/v1/embeddings", "POST", {"Content-Length": str(64 << 20)}, 413, "body_too_large"),
    ],
)
def test_http_mistakes_have_openais_shape(
    minilm_server: Served, path: str, method: str, headers: dict[str, str], status: int, code: str
) -> None:
    body = b'{"model": "all-minilm-l6-v2", "input": "a"}' if method == "POST" else None
    answer = call(minilm_server.url, path, body, method=method, headers=headers)
    assert (answer.status, answer.error["code"]) == (status, code)
    if status == 405:
        assert answer.headers["allow"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40_000) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just(MODEL) | JSON,
        "input": st.text(max_size=20) | st.lists(st.text(max_size=9), max_size=3)
        | st.lists(st.integers(-2, 31_000), max_size=9) | JSON,
        "encoding_format": st.sampled_from(["float", "base64", None]) | JSON,
        "dimensions": st.sampled_from([384, 0, -1, 10**30, None]) | JSON,
        "user": st.text(max_size=3) | JSON,
        "truncate": st.booleans() | JSON,
        "more": JSON,
    },
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(document=REQUESTS)
def test_no_request_is_a_server_error(minilm_server: Served, document: dict[str, Any]) -> None:
    answer = call(minilm_server.url, body=document)
    assert answer.status in (200, 400, 404), (document, answer.body)
    if answer.status == 200:
        rows = [entry["embedding"] for entry in answer.document["data"]]
        assert rows
    else:
        assert answer.error["type"] == "invalid_request_error"


@settings(max_examples=300, deadline=None, database=None)
@given(body=st.binary(max_size=60) | REQUESTS.map(lambda document: json.dumps(document).encode()) | JSON.map(
    lambda document: json.dumps(document).encode()
))  # fmt: skip
def test_parsing_raises_nothing_but_400(body: bytes) -> None:
    from deploytool.st_server.errors import RequestError
    from deploytool.st_server.schema import parse

    refused: RequestError | None = None
    try:
        request = parse(body, max_texts=2)
    except RequestError as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
    else:
        assert 1 <= request.count <= 2
        assert (request.texts is None) != (request.ids is None)


def test_no_mutated_request_is_a_server_error_or_a_hang(minilm_server: Served) -> None:
    """A short run of `make fuzz-server`: fields, bytes, headers, methods, bodies that end early."""
    chance = random.Random(3)  # noqa: S311 - a load
    port = int(minilm_server.url.rpartition(":")[2])
    statuses = [send(port, mutated(chance, MODEL)) for _ in range(250)]
    assert not [status for status in statuses if status is not None and status >= 500]
    assert {200, 400, 404} <= set(statuses)


# --- a small server: key, limits, overload, a poisoned model --------------------------------------

POISON = 29_999  # a token whose row in the embedding table is NaN


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


# --- start and stop -------------------------------------------------------------------------------


def test_what_is_not_finished_within_the_grace_is_answered_503(small: Small) -> None:
    thread, answers = in_flight(small, small.long_texts)
    small.process.process.send_signal(signal.SIGINT)
    thread.join(WAIT_S)
    assert (answers[0].status, answers[0].error["code"]) == (503, "stopping")
    assert small.process.exit_code() == 0
    assert small.process.wait_line("note: 1 requests were not finished")


@pytest.mark.slow
def test_it_listens_at_once_loads_behind_and_finishes_what_it_has_on_sigterm(
    start: Callable[..., Process], minilm_folder: Path
) -> None:
    server = start(
        "--model", str(minilm_folder), "--served-model-name", MODEL, "--threads", "1", "--backend", "torch",
        env={"DEPLOYTOOL_API_KEY": KEY},
    )  # fmt: skip
    url = server.url
    assert call(url, "/health").status == 200
    loading = call(url, "/ready")
    assert (loading.status, loading.document["status"]) == (503, "loading")
    early = call(url, body={"model": MODEL, "input": "a"}, key=KEY)
    assert (early.status, early.error["code"]) == (503, "loading")
    assert call(url, "/v1/models", key=KEY).status == 503
    server.wait_line("stage: ready")
    assert call(url, "/ready").status == 200

    thread, answers = in_flight(Small(url, server), Small(url, server).long_texts)
    server.process.send_signal(signal.SIGTERM)
    server.wait_line("stage: stopping (SIGTERM)")
    stopping = call(url, "/ready")
    assert (stopping.status, stopping.document["status"]) == (503, "stopping")
    late = call(url, body={"model": MODEL, "input": "a"}, key=KEY)
    assert (late.status, late.error["code"]) == (503, "stopping")
    assert late.headers["retry-after"]
    thread.join(WAIT_S)
    assert answers[0].status == 200
    assert len(answers[0].document["data"]) == 32
    assert server.exit_code() == 0
    assert server.process.stdout is not None and server.process.stdout.read() == ""


def test_a_stop_while_loading_ends_it(start: Callable[..., Process], minilm_folder: Path) -> None:
    server = start("--model", str(minilm_folder), "--backend", "torch")
    server.wait_line("stage: importing torch")
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code() == 0


def test_a_port_in_use_is_code_7(start: Callable[..., Process], minilm_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start("--model", str(minilm_folder), "--port", str(port))
        assert server.exit_code() == 7
        assert server.wait_line("fatal: ") == f"fatal: port {port} on 127.0.0.1 is in use"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--model"),
        (["--model", "m", "--port", "70000"], "0 to 65535"),
        (["--model", "m", "--port", "x"], "0 to 65535"),
        (["--model", "m", "--max-length", "0"], "at least 1"),
        (["--model", "m", "--max-queue", "many"], "at least 1"),
        (["--model", "m", "--dtype", "int8"], "invalid choice"),
        (["--model", "m", "--device", "tpu"], "cuda:N"),
        (["--model", "m", "--pooling", "max"], "invalid choice"),
        (["--model", "m", "--matryoshka", "64,x"], "32-1024"),
        (["--model", "m", "--matryoshka", "128-64"], "32-1024"),
        (["--model", "m", "--matryoshka", "0,64"], "32-1024"),
        (["--model", "m", "--grace", "-1"], "0 to 3600"),
        (["--model", "m", "--threads", "1", "--lanes", "2"], "--lanes 2"),
        (["--model", "org/m", "--trust-remote-code"], "--revision"),
        (["--model", "m", "--api-key-file", "/no/such/file"], "No such file"),
        (["--model", "m", "--api-key", "sk-1"], "unrecognized"),
        (["--model", " "], "folder or a hub id"),
    ],
)
def test_a_bad_flag_is_one_clear_line(flags: list[str], says: str) -> None:
    from deploytool.st_server import config
    from deploytool.st_server.errors import BadUsage

    with pytest.raises(BadUsage) as bad:
        config.parse(flags, {})
    assert says in bad.value.message
    assert "\n" not in bad.value.message
    assert bad.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "says"), [("", "is empty"), (" \n", "is empty"), ("a b", "printable"), ("ü", "printable")]
)
def test_a_bad_key_is_refused(key: str, says: str, tmp_path: Path) -> None:
    from deploytool.st_server import config
    from deploytool.st_server.errors import BadUsage

    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    for flags, environ in (
        (["--api-key-file", str(file)], {}),
        ([], {"DEPLOYTOOL_API_KEY": key}),
    ):
        with pytest.raises(BadUsage) as bad:
            config.parse(["--model", "m", *flags], environ)
        assert says in bad.value.message


def broken_folders(source: Path, target: Path) -> dict[str, tuple[Path, int, str]]:
    """Folders that cannot be served: (folder, exit code, what is said)."""
    made: dict[str, tuple[Path, int, str]] = {}

    def make(name: str, code: int, says: str, *, drop: tuple[str, ...] = ()) -> Path:
        folder = target / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("README.md", "data_config.json", *drop))
        made[name] = (folder, code, says)
        return folder

    (target / "empty").mkdir()
    made["empty"] = (target / "empty", 8, "holds no model")
    make("no weights", 8, "holds no *.safetensors", drop=("*.safetensors",))
    pickled = make("pickled", 8, "pytorch_model.bin only", drop=("*.safetensors",))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    broken = make("cut weights", 8, "the download is incomplete", drop=("*.safetensors",))
    (broken / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:100_000])
    make("no pooling", 4, "without a pooling of its own", drop=("modules.json",))
    wrong = make("other architecture", 4, "lacks weights", drop=("*.safetensors",))
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.3" not in name}
    save_file(kept, wrong / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.mark.slow
def test_what_cannot_be_served_ends_with_a_cause(
    start: Callable[..., Process], minilm_folder: Path, tmp_path: Path
) -> None:
    cases = broken_folders(minilm_folder, tmp_path)
    for name, (folder, code, says) in cases.items():
        server = start("--model", str(folder), "--backend", "torch")
        assert server.exit_code() == code, (name, server.lines)
        assert says in server.wait_line("fatal: "), name
        assert not any(line.startswith("Traceback") for line in server.lines), server.lines


def test_a_model_that_is_not_there_is_code_8(start: Callable[..., Process]) -> None:
    server = start("--model", "/no/such/folder")
    assert server.exit_code() == 8
    assert server.wait_line("fatal: ") == "fatal: there is no folder /no/such/folder"
    server = start("--model", "no-such-org/no-such-model", env={"HF_HUB_OFFLINE": "1"})
    assert server.exit_code() == 8
    assert "not in the Hugging Face cache" in server.wait_line("fatal: ")
