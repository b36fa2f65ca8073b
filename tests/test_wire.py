"""Addresses as people write them, and answers as servers get them wrong."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from deploytool.errors import BadInput
from deploytool.wire.addresses import BaseUrl, checked_key
from deploytool.wire.answers import Response, error_message, error_shape, parse_embeddings, parse_models
from deploytool.wire.errors import NotJson, WrongShape


@pytest.mark.parametrize(
    ("given", "root", "api"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/embeddings", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000", "http://[::1]:8000/v1"),
        ("localhost:8000", "http://localhost:8000", "http://localhost:8000/v1"),
        ("https://gate.example/team", "https://gate.example/team", "https://gate.example/team/v1"),
        ("https://gate.example/team/v1", "https://gate.example/team", "https://gate.example/team/v1"),
        ("https://h.example/v1beta/openai", "https://h.example/v1beta/openai", "https://h.example/v1beta/openai"),
    ],
)  # fmt: skip
def test_an_address_is_read_in_every_form(given: str, root: str, api: str) -> None:
    base = BaseUrl.parse(given)
    assert (base.root, base.api, base.embeddings) == (root, api, f"{api}/embeddings")
    assert BaseUrl.parse(base.api) == base


@pytest.mark.parametrize(
    "given",
    [
        "ftp://host:1",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://::1:8000",
        "http://[::1:8000",
        "http://host:1/v1?key=1",
        "http://host:1/#top",
        "http://two words:1",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(BadInput) as caught:
        BaseUrl.parse(given)
    assert "http://127.0.0.1:8000" in str(caught.value.hint) or "base URL has not" in caught.value.message


@pytest.mark.parametrize("given", ["http://me:sesame@host:1", "http://sesame@host:1", "http://sesame@host:x"])
def test_a_password_in_an_address_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(BadInput) as caught:
        BaseUrl.parse(given)
    assert "sesame" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.5:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://10.0.0.1:1", False),
        ("http://localhost.example:1", False),
    ],
)
def test_this_machine_is_recognised(url: str, expected: bool) -> None:
    assert BaseUrl.parse(url).loopback is expected


def test_a_key_is_stripped_of_its_newline() -> None:
    assert checked_key("sesame\n") == "sesame"
    assert checked_key(None) is None


@pytest.mark.parametrize("key", ["", " \n", "two words", "line\nbreak", "schlüssel", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        checked_key(key)
    assert not key.strip() or key not in str(caught.value)


def row(index: Any, embedding: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    document = {
        "data": [row(2, [2.0]), row(0, [0.0]), row(1, [1.0])],
        "model": "m",
        "usage": {"prompt_tokens": 3},
    }
    answer = parse_embeddings(document, 3, 1.5)
    assert answer.vectors == [[0.0], [1.0], [2.0]]
    assert answer.indices == [2, 0, 1]
    assert not answer.in_order
    assert (answer.model, answer.prompt_tokens, answer.total_tokens) == ("m", 3, None)


def test_a_total_alone_counts_the_prompt() -> None:
    answer = parse_embeddings({"data": [row(0, [1.0])], "usage": {"total_tokens": 9}}, 1, 1.0)
    assert (answer.prompt_tokens, answer.total_tokens) == (9, 9)


def test_base64_is_little_endian_float32() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    answer = parse_embeddings({"data": [row(0, packed)]}, 1, 1.0)
    assert answer.vectors == [[0.5, -2.0]]
    assert answer.encoding == "base64"
    assert answer.prompt_tokens is None


def test_null_and_overlarge_numbers_are_not_finite() -> None:
    (vector,) = parse_embeddings({"data": [row(0, [None, 10**400, 1])]}, 1, 1.0).vectors
    assert math.isnan(vector[0])
    assert vector[1] == math.inf
    assert vector[2] == 1.0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "without a data list"),
        ({"data": None}, "without a data list"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"object": "error", "message": "flat"}, "flat"),
        ({"data": []}, "asked for 1 vectors, got 0"),
        ({"data": [7]}, "data[0].index"),
        ({"data": [row("0", [1.0])]}, "data[0].index"),
        ({"data": [row(True, [1.0])]}, "data[0].index"),
        ({"data": [row(1, [1.0])]}, "data[].index is [1]"),
        ({"data": [row(0, [])]}, "an empty list"),
        ({"data": [row(0, None)]}, "missing"),
        ({"data": [row(0, {"values": [1.0]})]}, "a dict"),
        ({"data": [row(0, [[1.0]])]}, "holds a list"),
        ({"data": [row(0, [True])]}, "holds a bool"),
        ({"data": [row(0, "?")]}, "no base64 of float32"),
        ({"data": [row(0, "")]}, "no base64 of float32"),
        ({"data": [row(0, "AAAAAAA=")]}, "no base64 of float32"),
    ],
)
def test_a_wrong_shape_is_named(document: Any, words: str) -> None:
    with pytest.raises(WrongShape) as caught:
        parse_embeddings(document, 1, 1.0)
    assert words in caught.value.message
    assert caught.value.status == 200


def test_models_are_listed_by_id() -> None:
    assert parse_models({"data": [{"id": "a"}, {"id": 3}, 4, {"id": "b"}]}) == ["a", "b"]
    with pytest.raises(WrongShape):
        parse_models({"models": ["a"]})


@pytest.mark.parametrize(
    ("document", "message", "shape"),
    [
        ({"error": {"message": "nested"}}, "nested", "OpenAI's shape"),
        ({"object": "error", "message": "flat", "code": 400}, "flat", "flat shape"),
        ({"error": "Unauthorized"}, "Unauthorized", "flat shape"),
        ({"detail": [{"msg": "field required"}]}, '[{"msg": "field required"}]', "flat shape"),
        ({"error": {"message": "  "}}, None, "OpenAI's shape"),
        ({"status": "bad"}, None, "no message"),
        (["bad"], None, "no JSON object"),
    ],
)
def test_error_messages_are_found_in_every_shape(document: Any, message: str | None, shape: str) -> None:
    assert error_message(document) == message
    assert error_shape(document) == shape


def test_plain_text_errors_are_read_and_pages_are_not() -> None:
    assert (
        Response(500, {"content-type": "text/plain"}, b" Internal Error\n", 1.0).error_message()
        == "Internal Error"
    )
    assert Response(502, {"content-type": "text/html"}, b"<html>Bad Gateway", 1.0).error_message() is None
    with pytest.raises(NotJson) as caught:
        Response(200, {}, b"<html>", 1.0).json()
    assert "<html>" in caught.value.message
