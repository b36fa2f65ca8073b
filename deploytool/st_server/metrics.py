"""Prometheus metrics of the server, in a registry of its own."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from deploytool.st_server.board import Board, merged

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Metrics:
    """What /metrics shows. Its methods are the batcher's Observer; safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        name = "st_server"
        self._requests = Counter(f"{name}_requests", "Answers by path and status.", ["path", "status"],
                                 registry=registry)  # fmt: skip
        self._errors = Counter(f"{name}_errors", "Answers that are not 200, and clients gone, by class.",
                               ["error"], registry=registry)  # fmt: skip
        self._latency = Histogram(f"{name}_request_seconds", "From the request's head to its answer.",
                                  buckets=SECONDS, registry=registry)  # fmt: skip
        self._texts = Counter(f"{name}_texts", "Texts computed.", registry=registry)
        self._tokens = Counter(f"{name}_tokens", "Tokens computed, padding not counted.", registry=registry)
        self._padded = Counter(
            f"{name}_padded_tokens", "Tokens computed, padding counted.", registry=registry
        )
        self.queue_texts = Gauge(f"{name}_queue_texts", "Texts that wait now.", registry=registry)
        self.unanswered = Gauge(f"{name}_unanswered_requests", "Requests without an answer now.",
                                registry=registry)  # fmt: skip
        self.budget = Gauge(f"{name}_batch_budget_tokens", "Padded tokens per forward now; falls after an "
                            "out-of-memory and grows back.", registry=registry)  # fmt: skip
        self._wait = Histogram(f"{name}_queue_wait_seconds", "From arrival to the first text's forward.",
                               buckets=SECONDS, registry=registry)  # fmt: skip
        self._batch = Histogram(f"{name}_batch_texts", "Texts per forward.", buckets=TEXTS, registry=registry)
        self._fill = Histogram(f"{name}_batch_fill_ratio", "Real tokens of a forward's padded ones; "
                               "1 is no padding.", buckets=RATIOS, registry=registry)  # fmt: skip
        self._inference = Histogram(f"{name}_inference_seconds", "Time of a forward.", buckets=SECONDS,
                                    registry=registry)  # fmt: skip
        self._splits = Counter(f"{name}_batch_splits", "Batches split after an out-of-memory.",
                               registry=registry)  # fmt: skip
        self._ready = Gauge(f"{name}_ready", "1 while the model is loaded and requests are taken.",
                            registry=registry)  # fmt: skip
        self._model = Info(f"{name}_model", "The model served.", registry=registry)
        # Looking a child up costs more than counting it.
        self._child = lru_cache(maxsize=64)(self._requests.labels)
        self._error = lru_cache(maxsize=64)(self._errors.labels)
        self._board: Board | None = None
        self._place = 0

    def waited(self, seconds: float) -> None:
        self._wait.observe(seconds)

    def computed(self, texts: int, tokens: int, padded: int, seconds: float) -> None:
        self._texts.inc(texts)
        self._tokens.inc(tokens)
        self._padded.inc(padded)
        self._batch.observe(texts)
        self._fill.observe(tokens / padded if padded else 1.0)
        self._inference.observe(seconds)

    def split(self, texts: int) -> None:
        del texts
        self._splits.inc()

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._child(path, status).inc()
        if path in ("/v1/embeddings", "/v1/rerank"):
            self._latency.observe(seconds)

    def failed(self, error: str) -> None:
        self._error(error).inc()

    def ready(self, value: bool) -> None:
        self._ready.set(1 if value else 0)

    def describe(self, **labels: str) -> None:
        self._model.info(labels)

    def join(self, board: Board, place: int, starts: int) -> None:
        """As one of several workers: what each shows goes to the board, and `render` shows all of them."""
        self._board, self._place = board, place
        started = Gauge(
            "st_server_worker_starts", "Times that this worker was started.", registry=self.registry
        )
        started.set(starts)

    def publish(self) -> None:
        """For the other workers' `render`."""
        if self._board is not None:
            self._board.write(self._place, generate_latest(self.registry))

    def render(self) -> bytes:
        """The text format that Prometheus scrapes; the other workers' as they last published."""
        if self._board is None:
            return generate_latest(self.registry)
        self.publish()
        return merged((page, self._board.read(page)) for page in range(len(self._board.descriptors)))
