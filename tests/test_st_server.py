"""The SentenceTransformers server: the real process, the real model, real sockets."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openai
import pytest
from st_serving import KEY, MODEL, TEXTS, WAIT_S, Small, call, embed, metric

if TYPE_CHECKING:
    from conftest import Planted, Served


pytestmark = pytest.mark.model


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


# The other paths


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
