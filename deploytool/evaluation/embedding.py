"""Texts to vectors by a served system: from the cache, else in batches over several connections.

Every batch is kept as it arrives, so that a killed run goes on where it was. A text that the server refuses
for its length is cut until it is taken, and counted; one that is refused all the same gets no vector.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploytool.endpoint import Client, EndpointError
from deploytool.errors import DeploytoolError, Unhealthy
from deploytool.evaluation.batches import Batch, Batcher, batches
from deploytool.evaluation.options import Progress
from deploytool.evaluation.prompting import Prompting, Role
from deploytool.evaluation.reading import ALONE_AT_MOST, Reading
from deploytool.evaluation.record import Cost
from deploytool.evaluation.retrying import Retries, Stopped
from deploytool.evaluation.spending import Budget
from deploytool.evaluation.systems import Served
from deploytool.evaluation.wire import request_limits
from deploytool.retrieval.cache import EmbeddingCache, Kept, Space, unpack

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix

REFUSED_AT_MOST = 0.05  # of the texts, and 10


@dataclass
class Embedded:
    """Vectors in the order of the texts, (n, d) float32, as the server gave them: not normalised."""

    matrix: Matrix
    cut: list[bool | None]
    refused: int


@dataclass
class Embedder:
    """One system with its prompts. `dimensions` is asked of the server; None: its full width."""

    system: Served
    client: Client
    prompting: Prompting
    reading: Reading
    cache: EmbeddingCache | None
    budget: Budget
    progress: Progress
    batch: int = 32
    concurrency: int = 4
    dimensions: int | None = None
    retries: Retries = field(default_factory=Retries)
    cost: Cost = field(default_factory=Cost)

    def space(self, role: Role) -> Space:
        system = self.system
        return Space(
            system.model, system.revision, system.computed_by, self.prompting.key(role), self.dimensions or 0
        )

    def prompted(self, texts: Sequence[str], role: Role) -> list[str]:
        prompt = self.prompting.of(role)
        return [prompt + text for text in texts] if prompt else list(texts)

    def known(self, texts: Sequence[str], role: Role) -> dict[str, Kept]:
        """What the cache holds of the (unprompted) texts, by prompted text."""
        if self.cache is None:
            return {}
        return self.cache.get(self.cache.space(self.space(role)), set(self.prompted(texts, role)))

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        """All vectors. Raises EndpointError, OverBudget, Unhealthy; what was embedded until then is kept."""
        sent = self.prompted(texts, role)
        unique = list(dict.fromkeys(sent))
        found = self.known(texts, role)
        missing = [text for text in unique if text not in found]
        started = time.perf_counter()
        what = "queries" if role == "query" else "documents"
        if missing:
            self.budget.check(missing)
            try:
                for answered in self._asked(missing, role):
                    if self.cache is not None:
                        kept = {text: one for text, one in answered.items() if one.vector}
                        self.cache.put(self.cache.space(self.space(role)), kept)
                    found |= answered
                    self.progress.step(f"embedding {what}", len(found), len(unique))
            except EndpointError as error:
                if self.cache is not None:
                    kept_so_far = f"{len(found)} of {len(unique)} {what} are kept: the same command goes on"
                    error.hint = f"{error.hint}; {kept_so_far}" if error.hint else kept_so_far
                raise
        self.cost.seconds += time.perf_counter() - started
        self.cost.cached += len(unique) - len(missing)
        self.cost.computed += len(missing)
        return self._assembled(sent, found)

    def fresh(self, texts: Sequence[str], role: Role) -> dict[str, Kept]:
        """Vectors straight from the server, by prompted text; the cache is neither read nor written."""
        answered: dict[str, Kept] = {}
        for part in self._asked(list(dict.fromkeys(self.prompted(texts, role))), role):
            answered |= part
        return answered

    def _assembled(self, sent: Sequence[str], found: dict[str, Kept]) -> Embedded:
        widths = {len(kept.vector) for kept in found.values() if kept.vector}
        if len(widths) > 1:
            raise Unhealthy(
                f"vectors of {' and '.join(str(width // 4) for width in sorted(widths))} dimensions",
                hint="the server changed in between: empty the cache with --no-cache, or look at its log",
            )
        nothing = bytes(widths.pop()) if widths else b""
        matrix = unpack([found[text].vector or nothing for text in sent])
        counted = self.reading.cut(sent) if self.reading.tokenizer else [None] * len(sent)
        cut = [
            own if own else kept if kept is not None else own
            for own, kept in zip(counted, (found[text].cut for text in sent), strict=True)
        ]
        return Embedded(matrix, cut, sum(not found[text].vector for text in sent))

    def _asked(self, texts: list[str], role: Role) -> Iterator[dict[str, Kept]]:
        """Sends all texts, a few requests at a time, and yields each answer as it comes."""
        most, tokens = request_limits(self.system, self.batch)
        cut = dict(zip(texts, self.reading.cut(texts), strict=True))
        doubtful = {text for text, known in cut.items() if known is None} if self.reading.limit else set()
        alone = doubtful if len(doubtful) <= ALONE_AT_MOST else set()
        work = batches(texts, cut, alone, most, tokens)
        refused_at_most = max(10, REFUSED_AT_MOST * len(texts))
        self.retries.stop = threading.Event()
        batcher = Batcher(
            self.client, self.system, role, self.prompting.input_type, self.dimensions,
            self.reading, self.budget, self.retries, self.cost,
        )  # fmt: skip
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="embed") as pool:
            try:
                refused = 0
                for answered in _in_flight(pool, batcher, work, self.concurrency):
                    refused += sum(not kept.vector for kept in answered.values())
                    if refused > refused_at_most or refused == len(texts):
                        raise Unhealthy(
                            f"the server refuses the texts: {refused} of {len(texts)}, {batcher.refusal}",
                            hint="are its limits too small for this data set, or is it no embedding model?",
                        )
                    yield answered
            finally:
                self.retries.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)


def _in_flight(
    pool: ThreadPoolExecutor, batcher: Batcher, work: Iterator[Batch], concurrency: int
) -> Iterator[dict[str, Kept]]:
    """Never more futures than connections: an error ends the run with little on the way."""
    running: set[Future[dict[str, Kept]]] = set()
    failure: DeploytoolError | None = None
    while True:
        while failure is None and len(running) < concurrency and (batch := next(work, None)) is not None:
            running.add(pool.submit(batcher.run, batch))
        if not running:
            break
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                yield future.result()
            except Stopped:
                continue
            except DeploytoolError as error:
                failure = failure or error
                batcher.retries.stop.set()
    if failure is not None:
        raise failure
