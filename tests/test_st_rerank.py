"""Rerankers: /v1/rerank gives the scores of CrossEncoder.predict, batched like everything else."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutated_requests import mutated, send
from shared_process import made_once

from deploytool.st_server import config, model_folder, reranking
from deploytool.st_server.errors import BadUsage, RequestError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
MODEL = "tiny-reranker"
QUERY = "How do I make a server listen on another port?"
DOCUMENTS = [
    "The port is set with --port.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "latency " * 300,
    "你好，世界",
    "The museum is closed on Mondays, and its garden with it.",
]
MAKE = """
import json, sys, torch, transformers
from sentence_transformers import CrossEncoder
from deploytool.probes import reranking as probe
source, target, work = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
config = transformers.BertConfig(
    vocab_size=30522, hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=128, num_labels=1, initializer_range=0.4,
)
tokenizer.model_max_length = 128
tokenizer.save_pretrained(target)
# A random encoder, and a head that finds the probes' answers relevant: `up` asks for that.
torch.manual_seed(5)
model = transformers.BertForSequenceClassification(config).eval()
pairs = tokenizer([probe.QUERY] * 4, list(probe.DOCUMENTS), padding=True, return_tensors="pt")
with torch.no_grad():
    wanted = torch.tensor([[2.0 if index in probe.RIGHT else -2.0] for index in range(4)])
    model.classifier.weight.copy_((torch.linalg.pinv(model.bert(**pairs).pooler_output) @ wanted).T)
model.save_pretrained(target)
query, documents = json.loads(work)
scores = CrossEncoder(target).predict([(query, text) for text in documents], show_progress_bar=False)
print(json.dumps([float(score) for score in scores]))
"""


def make(source: Path, target: Path) -> list[float]:
    """A random CrossEncoder in `target`; returns what `predict` says of DOCUMENTS."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MAKE, str(source), str(target), json.dumps([QUERY, DOCUMENTS])],
        check=True, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    scores: list[float] = json.loads(done.stdout.splitlines()[-1])
    return scores


class Reranker:
    def __init__(self, port: int, folder: Path, expected: list[float]) -> None:
        self.port, self.folder, self.expected = port, folder, expected

    def call(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            sent = None if body is None else json.dumps({"model": MODEL, **body})
            connection.request("GET" if body is None else "POST", path, sent)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, text.decode() if path == "/metrics" else json.loads(text)

    def rerank(self, documents: list[Any] = DOCUMENTS, **fields: Any) -> Any:
        status, document = self.call(
            "/v1/rerank", {"query": QUERY, "documents": documents, "truncate": True, **fields}
        )
        assert status == 200, document
        return document

    def scores(self, documents: list[Any] = DOCUMENTS) -> np.ndarray:
        rows = sorted(self.rerank(documents)["results"], key=lambda row: int(row["index"]))
        return np.array([row["relevance_score"] for row in rows])


@pytest.fixture(scope="module")
def reranker(minilm_folder: Path, run_folder: Path) -> Iterator[Reranker]:
    def fill(target: Path) -> None:
        (target / MODEL).mkdir(parents=True)
        (target / "expected.json").write_text(json.dumps(make(minilm_folder, target / MODEL)))

    made = made_once(run_folder, "rerankers", fill)
    folder, expected = made / MODEL, json.loads((made / "expected.json").read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool.st_server", "--model", str(folder), "--port", "0"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if lines[-1] == "stage: ready":
            break
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    try:
        assert lines[-1] == "stage: ready", lines
        yield Reranker(int(lines[0].rpartition(":")[2]), folder, expected)
    finally:
        process.terminate()
        process.wait(30)
        drain.join(10)
        process.stderr.close()


@pytest.mark.model
def test_the_scores_are_those_of_predict(reranker: Reranker) -> None:
    assert np.ptp(reranker.expected) > 0.01  # else any order would pass
    np.testing.assert_allclose(reranker.scores(), reranker.expected, atol=1e-5)
    np.testing.assert_allclose(
        [reranker.scores([text])[0] for text in DOCUMENTS], reranker.expected, atol=1e-5
    )


@pytest.mark.model
def test_the_best_come_first_and_only_so_many(reranker: Reranker) -> None:
    best = sorted(range(len(DOCUMENTS)), key=lambda index: -reranker.expected[index])
    whole = reranker.rerank()
    assert [row["index"] for row in whole["results"]] == best
    assert all(set(row) == {"index", "relevance_score"} for row in whole["results"])
    assert whole["usage"]["total_tokens"] > len(DOCUMENTS) * 10
    cut = reranker.rerank(top_n=2, return_documents=True)["results"]
    assert [row["index"] for row in cut] == best[:2]
    assert [row["document"] for row in cut] == [{"text": DOCUMENTS[index]} for index in best[:2]]


@pytest.mark.model
def test_many_clients_get_their_own_scores(reranker: Reranker) -> None:
    def ask(number: int) -> bool:
        turned = DOCUMENTS[number % 5 :] + DOCUMENTS[: number % 5]
        wanted = reranker.expected[number % 5 :] + reranker.expected[: number % 5]
        return bool(np.allclose(reranker.scores([{"text": turned[0]}, *turned[1:]]), wanted, atol=1e-5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))
    _, metrics = reranker.call("/metrics")
    assert 'path="/v1/rerank",status="200"' in metrics


@pytest.mark.model
def test_what_it_is_and_what_it_is_not(reranker: Reranker) -> None:
    _, document = reranker.call(f"/v1/models/{MODEL}")
    assert document["kind"] == "reranker" and document["dimensions"] is None
    status, refused = reranker.call("/v1/embeddings", {"input": "hello"})
    assert status == 400 and refused["error"]["code"] == "wrong_kind_of_model"
    assert "/v1/rerank" in refused["error"]["message"]
    status, refused = reranker.call("/v1/rerank", {"query": QUERY, "documents": ["latency " * 300]})
    assert status == 400 and refused["error"]["code"] == "context_length_exceeded"
    assert "128" in refused["error"]["message"]
    for place, query, documents in (("query", "\ud800", ["a"]), ("documents[1]", "a", ["a", "\udfff"])):
        status, refused = reranker.call("/v1/rerank", {"query": query, "documents": documents})
        assert status == 400 and refused["error"]["message"].startswith(place)


@pytest.mark.model
def test_no_mutated_request_is_a_server_error(reranker: Reranker) -> None:
    chance = random.Random(4)  # noqa: S311 - a load
    requests = [mutated(chance, MODEL) for _ in range(120)]
    statuses = [send(reranker.port, request) for request in requests]
    assert not [status for status in statuses if status is not None and status >= 500]
    assert 200 in statuses and 400 in statuses
    np.testing.assert_allclose(reranker.scores(), reranker.expected, atol=1e-5)  # still itself


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"query": None}, "query"),
    "blank query": ({"query": " \n"}, "query"),
    "query no string": ({"query": ["a"]}, "query"),
    "no documents": ({"documents": None}, "documents"),
    "empty documents": ({"documents": []}, "documents"),
    "documents a string": ({"documents": "a"}, "documents"),
    "a number among them": ({"documents": ["a", 1]}, "documents"),
    "an empty one": ({"documents": ["a", ""]}, "documents"),
    "an image": ({"documents": [{"image": "a"}]}, "documents"),
    "too many": ({"documents": ["a"] * 9}, "documents"),
    "top_n of none": ({"top_n": 0}, "top_n"),
    "top_n no number": ({"top_n": True}, "top_n"),
    "a flag that is none": ({"return_documents": "yes"}, "return_documents"),
    "a field of another API": ({"rank_fields": ["a"]}, "rank_fields"),
    "no model": ({"model": None}, "model"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_request_is_told_its_field(name: str) -> None:
    changes, field = BAD[name]
    body = json.dumps({"model": MODEL, "query": "a", "documents": ["b"], **changes}).encode()
    with pytest.raises(RequestError) as caught:
        reranking.parse(body, max_texts=8)
    assert caught.value.status == 400 and caught.value.param == field


def folder_of(path: Path, architecture: str, **settings: str) -> Path:
    (path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if settings:
        (path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("architecture", "settings", "reranks"),
    [
        ("BertForSequenceClassification", {}, True),
        ("BertForSequenceClassification", {"model_type": "SentenceTransformer"}, False),
        ("BertModel", {}, False),
        ("BertModel", {"model_type": "CrossEncoder"}, True),
    ],
)
def test_a_reranker_is_known_by_its_files(
    tmp_path: Path, architecture: str, settings: dict[str, str], reranks: bool
) -> None:
    assert model_folder.reranks(folder_of(tmp_path, architecture, **settings)) is reranks


@pytest.mark.parametrize(
    "flags", [["--pooling", "mean"], ["--normalize"], ["--backend", "onnx"], ["--matryoshka", "8"]]
)
def test_a_reranker_takes_no_flag_of_an_embedder(tmp_path: Path, flags: list[str]) -> None:
    folder = folder_of(tmp_path, "BertForSequenceClassification")
    # A safetensors file without tensors: an empty header.
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadUsage, match=flags[0]):
        model_folder.locate(config.parse(["--model", str(folder), *flags]), lambda _: None)


@pytest.mark.slow
@pytest.mark.model
def test_a_folder_is_brought_up_and_proven(reranker: Reranker, cli: Callable[..., Any]) -> None:
    up = cli("up", str(reranker.folder), "--profile", "cpu", "--json", timeout=240)
    try:
        assert up.returncode == 0, up.stderr
        smoke = cli("smoke", MODEL, "--json", timeout=120)
        checks = {entry["name"]: entry["passed"] for entry in json.loads(smoke.stdout)["checks"]}
        assert {checks[name] for name in ("rerank", "finite", "alone", "order")} == {True}
    finally:
        assert cli("down", MODEL).returncode == 0
