"""A served reranker over the candidates of a first stage: one request a query, over several connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploytool.endpoint import Client, HttpError
from deploytool.errors import Unhealthy
from deploytool.evaluation.options import Progress
from deploytool.evaluation.record import Cost
from deploytool.evaluation.retrying import Retries
from deploytool.evaluation.systems import Served
from deploytool.evaluation.wire import rerank
from deploytool.retrieval.cache import EmbeddingCache, Kept, Space, pack, unpack

if TYPE_CHECKING:
    from deploytool.evaluation.pipeline import Task
    from deploytool.retrieval.search import Ranking


@dataclass
class Reranker:
    """One served reranker. Scores are cached by query and candidates, like embeddings."""

    system: Served
    client: Client
    cache: EmbeddingCache | None
    progress: Progress
    concurrency: int = 4
    retries: Retries = field(default_factory=Retries)
    cost: Cost = field(default_factory=Cost)

    def scores(self, task: Task, candidates: Ranking) -> list[list[float]]:
        """For each query one score a candidate, in the ranking's order. EndpointError, Unhealthy."""
        started = time.perf_counter()
        texts = task.dataset.documents
        pairs = {place: [texts[name] for name in candidates.row(place)] for place in range(len(candidates))}
        keys = {place: "\0".join((task.queries[place], *documents)) for place, documents in pairs.items()}
        kept = self.cache.get(self._space(), keys.values()) if self.cache else {}
        found = {
            place: [float(value) for value in unpack([kept[key].vector])[0]]
            for place, key in keys.items()
            if key in kept
        }
        self.cost.cached += sum(len(scores) for scores in found.values())
        missing = [place for place, documents in pairs.items() if documents and place not in found]
        for place, scores in self._asked(task, pairs, missing):
            found[place] = scores
            if self.cache is not None:
                self.cache.put(self._space(), {keys[place]: Kept(pack(scores))})
            self.progress.step("reranking", len(found), len(pairs))
        self.cost.seconds += time.perf_counter() - started
        return [found.get(place, []) for place in range(len(candidates))]

    def _space(self) -> int:
        if self.cache is None:
            raise RuntimeError("no cache")
        system = self.system
        return self.cache.space(Space(system.model, system.revision, system.computed_by, "rerank"))

    def _asked(
        self, task: Task, pairs: dict[int, list[str]], missing: Sequence[int]
    ) -> Iterator[tuple[int, list[float]]]:
        self.retries.stop = threading.Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="rerank")
        try:
            running = {pool.submit(self._one, task.queries[place], pairs[place]): place for place in missing}
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            self.retries.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, query: str, documents: Sequence[str]) -> list[float]:
        try:
            scores = self.retries.call(
                lambda: rerank(self.client, self.system.resolved.model, query, documents)
            )
        except HttpError as error:
            if error.status in (404, 405, 501):
                raise Unhealthy(
                    f"{self.system.target} has no /v1/rerank: {error.message}",
                    hint="--rerank takes a reranker; for a coarse and a fine embedder use --first COARSE",
                ) from error
            raise
        self.cost.requests += 1
        self.cost.computed += len(documents)
        return scores
