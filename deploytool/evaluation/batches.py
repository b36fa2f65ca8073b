"""One request of texts, and what is done when the server does not take it: split, cut, give up."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deploytool.endpoint import Client, Embeddings, HttpError, TimedOut
from deploytool.errors import Unhealthy
from deploytool.evaluation.prompting import Role
from deploytool.evaluation.reading import Reading
from deploytool.evaluation.record import Cost
from deploytool.evaluation.retrying import Retries
from deploytool.evaluation.spending import FEWEST_BYTES, Budget
from deploytool.evaluation.systems import Served
from deploytool.evaluation.wire import embed, embedding_body
from deploytool.retrieval.cache import Kept, pack

REFUSALS = (400, 413, 422, 500)
FEWEST_CHARACTERS = 100
LONG = 2000  # characters; a 500 to a shorter text has nothing to do with its length
NO_VECTOR = Kept(b"", None)


@dataclass(frozen=True)
class Batch:
    """Texts of one request; `cut` where it is known that the server does not read a text whole."""

    texts: tuple[str, ...]
    cut: tuple[bool | None, ...]


def batches(
    texts: Sequence[str], cut: Mapping[str, bool | None], alone: set[str], most: int, tokens: int | None
) -> Iterator[Batch]:
    """Texts of like length together, longest first: less padding, and what is too long is seen at once.

    `alone`: texts whose tokens the server is asked to count. `most` texts and about `tokens` in a request.
    """
    current: list[str] = []
    size = 0.0

    def made(part: Sequence[str]) -> Batch:
        return Batch(tuple(part), tuple(cut.get(text) for text in part))

    for text in sorted(texts, key=len, reverse=True):
        cost = len(text.encode("utf-8", "replace")) / FEWEST_BYTES + 2
        if text in alone:
            yield made([text])
            continue
        if current and (len(current) == most or (tokens is not None and size + cost > tokens)):
            yield made(current)
            current, size = [], 0.0
        current.append(text)
        size += cost
    if current:
        yield made(current)


@dataclass
class Batcher:
    """Runs batches, in many threads at once."""

    client: Client
    system: Served
    role: Role
    input_type: bool
    dimensions: int | None
    reading: Reading
    budget: Budget
    retries: Retries
    cost: Cost
    refusal: str = ""
    truncates: bool = True  # whether the server may take the wish to cut a text; seen when it refuses
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, batch: Batch) -> dict[str, Kept]:
        """The vectors of a batch. EndpointError where trying again did not help; OverBudget; Stopped."""
        truncate = self.truncates and any(cut is not False for cut in batch.cut)
        try:
            answer = self._embed(batch.texts, truncate)
        except (TimedOut, HttpError) as error:
            if isinstance(error, HttpError) and error.status not in REFUSALS:
                raise
            if len(batch.texts) > 1:
                half = len(batch.texts) // 2
                first = self.run(Batch(batch.texts[:half], batch.cut[:half]))
                return first | self.run(Batch(batch.texts[half:], batch.cut[half:]))
            if isinstance(error, TimedOut) or (error.status == 500 and len(batch.texts[0]) < LONG):
                raise
            return {batch.texts[0]: self._shortened(batch.texts[0], batch.cut[0], error, truncate)}
        return self._kept(batch, answer)

    def _kept(self, batch: Batch, answer: Embeddings) -> dict[str, Kept]:
        _check_finite(batch.texts, answer.vectors)
        limit = self.reading.limit
        counted = answer.prompt_tokens if len(batch.texts) == 1 else None
        vectors: dict[str, Kept] = {}
        for text, vector, cut in zip(batch.texts, answer.vectors, batch.cut, strict=True):
            known = cut if cut is not None or counted is None or limit is None else counted >= limit
            vectors[text] = Kept(pack(vector), known)
        return vectors

    def _shortened(self, text: str, cut: bool | None, error: HttpError, truncate: bool) -> Kept:
        """The vector of what the server takes of a refused text: cut by itself if it can, else here.

        `truncate`: it was asked to cut the text, and refused that. No vector where it takes nothing.
        """
        with self._lock:
            self.refusal = self.refusal or error.message
        if not truncate and self.truncates and (whole := self._taken(text, truncate=True)):
            return Kept(whole, True)
        if truncate and (whole := self._taken(text)):
            self.truncates = False  # it was the word that it refused
            return Kept(whole, cut)
        part = self._beginning(text)
        while len(part) >= FEWEST_CHARACTERS:
            if taken := self._taken(part):
                self.truncates = False
                return Kept(taken, True)
            part = part[: len(part) // 2]
        return NO_VECTOR

    def _taken(self, text: str, truncate: bool = False) -> bytes:
        """The packed vector of one text; nothing where the server refuses it."""
        try:
            vectors = self._embed([text], truncate).vectors
        except HttpError as error:
            if error.status not in REFUSALS:
                raise
            return b""
        _check_finite([text], vectors)
        return pack(vectors[0])

    def _beginning(self, text: str) -> str:
        """What should fit, by the tokenizer where there is one and the text is too long by it; else half."""
        limit, tokenizer = self.reading.limit, self.reading.tokenizer
        part = text if limit is None or tokenizer is None else tokenizer.beginning(text, limit)
        return part if len(part) < len(text) else text[: len(text) // 2]

    def _embed(self, texts: Sequence[str], truncate: bool) -> Embeddings:
        def once() -> Embeddings:
            reserved = self.budget.reserve(texts)
            try:
                answer = embed(self.client, body)
            except BaseException:
                self.budget.settle(reserved, 0)
                raise
            self.budget.settle(reserved, answer.prompt_tokens)
            with self._lock:
                self.cost.requests += 1
                if answer.prompt_tokens is not None:
                    self.cost.tokens = (self.cost.tokens or 0) + answer.prompt_tokens
            return answer

        body = embedding_body(
            self.system,
            texts,
            self.role,
            input_type=self.input_type,
            dimensions=self.dimensions,
            truncate=truncate,
        )
        return self.retries.call(once)


def _check_finite(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
    """Unhealthy for a vector that holds NaN or infinity: nothing of the answer is kept."""
    broken = [
        text for text, vector in zip(texts, vectors, strict=True) if not all(map(math.isfinite, vector))
    ]
    if broken:
        text = broken[0]
        raise Unhealthy(
            f"{len(broken)} of {len(texts)} vectors of a request hold NaN or infinite numbers, the first one "
            f"of a text of {len(text)} characters, {text[:60]!r}",
            hint="an overflow of float16 is the usual cause: serve with bfloat16 or float32",
        )
