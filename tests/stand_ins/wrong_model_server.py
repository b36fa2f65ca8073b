"""A stand-in for embeddings servers that are set up wrongly: real weights, a planted mistake in each path.

    python wrong_model_server.py FOLDER SAVED PROMPT...

It saves the model to SAVED as Sentence Transformers writes it, then prints `serving URL`. `URL/MISTAKE` is
the base URL of a server with that mistake (MISTAKES),
`URL/right` of one without. PROMPTs are what `unprompted` takes off and `doubled` repeats. The mistakes are
made with Sentence Transformers' own means, apart from how the tool makes its golden vectors.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

Rows = Any  # float32 [texts, dimensions]
SEED = 7
LIMIT = 60  # tokens; `short` refuses longer texts
prompts: list[str] = []
model: Any = None
one_at_a_time = threading.Lock()  # most mistakes change the model while they compute


def right(texts: list[str]) -> Rows:
    return model.encode(texts, prompt="", show_progress_bar=False)


def pooled(mode: str) -> Callable[[list[str]], Rows]:
    def embed(texts: list[str]) -> Rows:
        pooling = model[1]
        own = pooling.pooling_mode
        pooling.pooling_mode = mode
        try:
            return right(texts)
        finally:
            pooling.pooling_mode = own

    return embed


def cut(tokens: int) -> Callable[[list[str]], Rows]:
    def embed(texts: list[str]) -> Rows:
        own = model.max_seq_length
        model.max_seq_length = tokens
        try:
            return right(texts)
        finally:
            model.max_seq_length = own

    return embed


def without_special_tokens(texts: list[str]) -> Rows:
    rows = []
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(dict(ids))["sentence_embedding"][0].numpy())
    return np.stack(rows)


def in_bfloat16(texts: list[str]) -> Rows:
    half = model.to(torch.bfloat16)
    try:
        return (
            half.encode(texts, convert_to_numpy=False, convert_to_tensor=True, show_progress_bar=False)
            .float()
            .numpy()
        )
    finally:
        model.to(torch.float32)
        reload_weights()


weights: dict[str, Any] = {}


def reload_weights() -> None:
    model.load_state_dict(weights)


def coarse(texts: list[str]) -> Rows:
    """Numbers as a quantised model gives them: each a few hundredths off."""
    rows = right(texts)
    noise = np.random.default_rng(SEED).normal(0, 0.25 / np.sqrt(rows.shape[1]), rows.shape)
    return rows + noise


def other_weights(texts: list[str]) -> Rows:
    generator = np.random.default_rng(SEED)
    return right(texts) @ generator.normal(size=(384, 384)).astype(np.float32)


def permuted(texts: list[str]) -> Rows:
    order = list(range(384))
    random.Random(SEED).shuffle(order)  # noqa: S311 - the same order each time
    return right(texts)[:, order]


def overflown(texts: list[str]) -> Rows:
    rows = right(texts).copy()
    rows[[len(text) > 60 for text in texts]] = np.nan
    return rows


def shuffled(texts: list[str]) -> Rows:
    return right(texts)[np.argsort([len(text) for text in texts], kind="stable")]


def unprompted(texts: list[str]) -> Rows:
    return right(
        [next((text.removeprefix(p) for p in prompts if text.startswith(p)), text) for text in texts]
    )


def doubled(texts: list[str]) -> Rows:
    return right([next((p + text for p in prompts if text.startswith(p)), text) for text in texts])


MISTAKES: dict[str, Callable[[list[str]], Rows]] = {
    "right": right,
    "cls": pooled("cls"),
    "last": pooled("lasttoken"),
    "max": pooled("max"),
    "cut32": cut(32),
    "cut64": cut(64),
    "cut100": cut(100),
    "no-special": without_special_tokens,
    "bfloat16": in_bfloat16,
    "coarse": coarse,
    "other": other_weights,
    "permuted": permuted,
    "reversed": lambda texts: right(texts)[:, ::-1],
    "unnormalised": lambda texts: right(texts) * 3.5,
    "overflow": overflown,
    "shuffled": shuffled,
    "constant": lambda texts: right(["the same"] * len(texts)),
    "first-256": lambda texts: right(texts)[:, :256],
    "prompted": lambda texts: right(["query: " + text for text in texts]),
    "unprompted": unprompted,
    "doubled": doubled,
    "short": right,
    "none-taken": right,
}


class Refused(Exception):
    """A text is too long for this server."""


def embeddings(mistake: str, texts: list[str]) -> list[Any]:
    longest = {"short": LIMIT, "none-taken": 0}.get(mistake)
    if longest is not None and any(len(model.tokenizer(text)["input_ids"]) > longest for text in texts):
        raise Refused
    with one_at_a_time:
        rows = MISTAKES[mistake](texts).tolist()
    return [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self.send({"object": "list", "data": [{"id": "a-model", "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        try:
            data = embeddings(self.path.split("/")[1], texts)
        except Refused:
            self.send({"error": {"message": "a text is too long"}}, 400)
            return
        self.send({"object": "list", "model": "a-model", "data": data, "usage": {"prompt_tokens": 1}})

    def send(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    global model  # noqa: PLW0603 - one model for all mistakes
    prompts.extend(sys.argv[3:])
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    model.save(sys.argv[2])
    weights.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"serving http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
