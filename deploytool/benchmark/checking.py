"""What came back under load, looked into after it: are these the vectors that the same texts get alone?"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from deploytool.endpoint import Client, EndpointError
from deploytool.errors import DeploytoolError
from deploytool.loadgen.lengths import TokenizerCounter
from deploytool.loadgen.plan import CellPlan
from deploytool.records import AnswerCheck
from deploytool.targets import Resolved
from deploytool.wire.answers import Embeddings, parse_embeddings

COSINE_LEAST = 0.999
OTHER_ENCODING = {"float": "base64", "base64": "float"}
SAME_NUMBERS = 0.99999  # of one text in both encodings: the same bits, printed as decimals in one of them
NORM_LEAST = 1e-6
MOST_S = 20.0  # for the answers of one cell
MOST_PROBLEMS = 5


class AnswerChecker:
    """Checks the answers that the load processes kept. Vectors of texts sent alone are asked for once."""

    def __init__(self, target: Resolved, tokenizer: Path | None, timeout_s: float) -> None:
        self.target, self.timeout_s = target, timeout_s
        self._alone: dict[str, list[float]] = {}
        self._counter: TokenizerCounter | None = None
        if tokenizer is not None:
            try:
                self._counter = TokenizerCounter(tokenizer)
            except Exception:
                self._counter = None

    def check(self, plan: CellPlan) -> AnswerCheck:
        """All kept answers of a cell, within a bounded time."""
        found = AnswerCheck(answers=0)
        bodies = plan.bodies.read_bytes().splitlines()
        until = time.monotonic() + MOST_S
        with self.target.client(self.timeout_s) as client:
            for number, path in enumerate(sorted(plan.answers.iterdir())):
                if time.monotonic() > until:
                    break
                index, _, answer = path.read_bytes().partition(b"\n")
                body = json.loads(bodies[int(index)])
                found.answers += 1
                problem = self._look(found, client, body, answer, number)
                if problem is not None:
                    found.wrong += 1
                    if len(found.problems) < MOST_PROBLEMS:
                        found.problems.append(problem)
            if found.answers:
                self._other_encoding(found, client, json.loads(bodies[0]))
        counted, intended = found.tokens_counted, found.tokens_intended
        if counted is not None and intended is not None and counted < intended:
            found.problems.append(f"the server counted {counted} tokens of {intended}: it cuts long texts")
        return found

    def _look(
        self, found: AnswerCheck, client: Client, body: dict[str, Any], answer: bytes, number: int
    ) -> str | None:
        """What is wrong with one answer; None: nothing. One of its texts is compared with itself alone."""
        texts = body["input"]
        try:
            given = parse_embeddings(json.loads(answer), len(texts), 0.0)
        except (EndpointError, ValueError) as error:
            return f"not readable: {error}"
        found.vectors += len(given.vectors)
        self._tokens(found, texts, given)
        problem = _shape(found, given.vectors)
        if problem is not None:
            return problem
        place = number * 7 % len(texts)
        try:
            alone = self._vector_alone(client, body, texts[place])
        except DeploytoolError as error:
            found.problems.append(f"a text could not be sent alone: {error.message}")
            return None
        cosine = _cosine(alone, given.vectors[place])
        found.cosine_min = cosine if found.cosine_min is None else min(found.cosine_min, cosine)
        if cosine < COSINE_LEAST:
            return f"text {place + 1} of {len(texts)} has cosine {cosine:.4f} to itself sent alone"
        return None

    def _vector_alone(self, client: Client, body: dict[str, Any], text: str) -> list[float]:
        if text not in self._alone:
            answer = client.request("POST", "/v1/embeddings", json=body | {"input": [text]})
            self._alone[text] = parse_embeddings(answer.json(), 1, answer.latency_ms).vectors[0]
        return self._alone[text]

    def _other_encoding(self, found: AnswerCheck, client: Client, body: dict[str, Any]) -> None:
        """The first text alone as base64 where the load has floats, and the other way round."""
        other = OTHER_ENCODING[body["encoding_format"]]
        text = body["input"][0]
        try:
            own = self._vector_alone(client, body, text)
            answer = client.request(
                "POST", "/v1/embeddings", json=body | {"input": [text], "encoding_format": other}
            )
            given = parse_embeddings(answer.json(), 1, answer.latency_ms)
        except DeploytoolError as error:
            found.other_encoding_reason = f"{other} was not answered: {error.message}"
            return
        if given.encoding != other:
            found.other_encoding_reason = f"asked for {other}, the server answered {given.encoding}"
            return
        found.other_encoding_cosine = _cosine(own, given.vectors[0])
        found.other_encoding_bytes = len(answer.body)
        if found.other_encoding_cosine < SAME_NUMBERS:
            found.problems.append(
                f"the same text as {other} has cosine {found.other_encoding_cosine:.5f} to it as "
                f"{body['encoding_format']}"
            )

    def _tokens(self, found: AnswerCheck, texts: list[str], given: Embeddings) -> None:
        if self._counter is None or given.prompt_tokens is None:
            return
        special = self._counter.special
        intended = sum(self._counter.count(text) + special for text in texts)
        found.tokens_counted = (found.tokens_counted or 0) + given.prompt_tokens
        found.tokens_intended = (found.tokens_intended or 0) + intended


def _shape(found: AnswerCheck, vectors: list[list[float]]) -> str | None:
    for vector in vectors:
        found.dimensions = found.dimensions or len(vector)
        if len(vector) != found.dimensions:
            return f"{len(vector)} dimensions, where others have {found.dimensions}"
        norm = math.sqrt(math.fsum(value * value for value in vector))
        if not math.isfinite(norm):
            return "a vector is not finite"
        if norm < NORM_LEAST:
            return "a vector is zero"
        found.norm_min = norm if found.norm_min is None else min(found.norm_min, norm)
        found.norm_max = norm if found.norm_max is None else max(found.norm_max, norm)
    return None


def _cosine(one: list[float], other: list[float]) -> float:
    if len(one) != len(other):
        return 0.0
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in one) * math.fsum(b * b for b in other))
