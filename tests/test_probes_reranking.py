"""The checks of a reranker: a server that is right passes, and each planted fault fails the check that names it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.endpoint import Client
from deploytool.probes import prove, smoke

MODEL = "stand-in-reranker"
CARD = Catalog().model("qwen3-reranker-0.6b")
Scorer = Callable[[str, list[str]], Any]


def right(query: str, documents: list[str]) -> list[dict[str, Any]]:
    """A score by shared words, in SGLang's shape: best first."""
    words = set(query.lower().strip("?").split())
    scores = [
        len(words & set(document.lower().replace(".", "").split())) / len(words) for document in documents
    ]
    rows = [{"score": score, "index": index} for index, score in enumerate(scores)]
    return sorted(rows, key=lambda row: -float(row["score"]))


def changed(change: Callable[[float, int, int], float]) -> Scorer:
    """The right scores, each changed by (score, index, number of documents)."""

    def scorer(query: str, documents: list[str]) -> list[dict[str, Any]]:
        rows = right(query, documents)
        return [{**row, "score": change(row["score"], row["index"], len(documents))} for row in rows]

    return scorer


def no_path(*_: object) -> Any:
    return {"error": "no such path"}


FAULTS: dict[str, tuple[Scorer, str]] = {
    "answers like an embedder": (no_path, "rerank"),
    "leaves one out": (lambda query, documents: right(query, documents)[1:], "rerank"),
    "logits, no probabilities": (changed(lambda score, *_: score * 9 - 4), "finite"),
    "looks at the company": (changed(lambda score, _, count: score / count), "alone"),
    "mixes documents up": (changed(lambda score, index, count: 0.1 * index if count > 1 else score), "order"),
    "says no to all": (changed(lambda *_: 0.5), "relevance"),
}


@contextmanager
def serving(scorer: Scorer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer({"data": [{"id": MODEL}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(scorer(asked["query"], asked["documents"]))

        def _answer(self, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(400 if isinstance(document, dict) and "error" in document else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def checked(scorer: Scorer) -> dict[str, bool | None]:
    with serving(scorer) as url, Client(url, model=MODEL) as client:
        return {check.name: check.passed for check in smoke(client, CARD, ours=False, key_enforced=False)}


def test_a_right_reranker_passes_everything() -> None:
    assert set(checked(right).values()) == {True}
    with serving(right) as url, Client(url, model=MODEL) as client:
        assert [check.passed for check in prove(client, CARD)] == [True] * 4


def test_the_shape_of_other_servers_is_read() -> None:
    def cohere(query: str, documents: list[str]) -> Any:
        rows = right(query, documents)
        return {"results": [{"index": row["index"], "relevance_score": row["score"]} for row in rows]}

    assert set(checked(cohere).values()) == {True}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_the_check_that_names_it(fault: str) -> None:
    scorer, check = FAULTS[fault]
    found = checked(scorer)
    assert found[check] is False, found
    before = list(found)[: list(found).index(check)]
    assert all(found[name] is not False for name in before if name != "alone"), found
