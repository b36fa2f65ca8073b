"""Bad input to the SentenceTransformers server: a clear 4xx, never a 5xx or a hang."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_requests import mutated, send
from st_serving import MODEL, call, embed

if TYPE_CHECKING:
    from conftest import Served


pytestmark = pytest.mark.model


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
