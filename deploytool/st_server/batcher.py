"""The queue between requests and the model: bounded, fair by age, packed by tokens. No torch, no HTTP.

A job is one request's texts as token ids. Lanes (threads) take the next batch the moment they are free, so
new arrivals join while others compute; nobody waits for a timer. The oldest job's longest text always goes
with the next batch: nothing starves. Every job gets exactly one answer: its vectors or one error.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from deploytool.st_server.errors import BackendError, DeviceLost, OutOfMemory
from deploytool.st_server.jobs import Compute, Job, NotFinite, Observer, QueueFull, Stopped, Vectors
from deploytool.st_server.packing import Limits, choose, padded_tokens

# Of the waiting texts the oldest are looked at for one batch: as many as would fill so many batches. More saves
# padding (3 % from 8 to a whole queue of 256) and lets a text of an odd length wait longer (P99 of the wait there:
# 1.5 to 2.5 x the time that the queue takes). To leave out what came over a second after the oldest bounds that at
# 1.3 x, and cost torch a fifth of its texts per second.
WINDOW_BATCHES = 8
WINDOW_TEXTS = 512  # looked at and sorted for each batch, under the lock
GROW_AFTER_BATCHES = 64  # good batches after which a budget cut by an out-of-memory grows again


Entry = tuple[int, Job, int]  # length, job, index of the text in its job


class Batcher:
    """Jobs in, vectors out, through `lanes` threads. Thread-safe."""

    def __init__(
        self,
        compute: Compute,
        observer: Observer,
        *,
        limits: Limits,
        max_waiting: int,
        lanes: int = 1,
        on_lost: Callable[[DeviceLost], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._observer = observer
        self._limits = limits
        self._budget = limits.budget
        self._max_waiting = max_waiting
        self._on_lost = on_lost
        self._clock = clock
        self._jobs: dict[int, Job] = {}  # by id(job), oldest first; only those with texts still waiting
        self._open: dict[int, Job] = {}  # every job without an answer
        self._waiting = 0
        self._waiting_tokens = 0
        self._busy = 0
        self._good_batches = 0
        self._tokens_per_s = 0.0
        self._stopped = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._lane, name=f"lane-{number}", daemon=True) for number in range(lanes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Texts that no lane has taken yet."""
        return self._waiting

    @property
    def unanswered(self) -> int:
        """Jobs without an answer."""
        return len(self._open)

    @property
    def budget(self) -> int:
        """Padded tokens per forward now: less than configured after an out-of-memory."""
        return self._budget

    def full_for_s(self, texts: int = 1) -> int | None:
        """Seconds to wait where there is no room; else None. A job of any size is let in where nothing waits."""
        if self._waiting and self._waiting + texts > self._max_waiting:
            return self._retry_after_s()
        return None

    def submit(self, job: Job) -> None:
        """Raises QueueFull or Stopped; otherwise the job will be answered."""
        with self._changed:
            if self._stopped:
                raise Stopped("the server is stopping")
            retry_after_s = self.full_for_s(len(job.texts))
            if retry_after_s is not None:
                raise QueueFull(self._waiting, self._max_waiting, retry_after_s)
            job.arrived = self._clock()
            self._jobs[id(job)] = self._open[id(job)] = job
            self._waiting += len(job.texts)
            self._waiting_tokens += sum(map(len, job.texts))
            self._changed.notify()

    def abandon(self, job: Job) -> None:
        """Nobody wants the answer any more: texts that no lane has taken are not computed."""
        with self._changed:
            self._forget(job)

    def stop(self) -> None:
        """Answer every open job with Stopped; lanes end after the batch they are in."""
        with self._changed:
            self._stopped = True
            jobs = list(self._open.values())
            self._changed.notify_all()
        for job in jobs:
            self._fail(job, Stopped("the server stopped before this request was computed"))

    def join(self, timeout_s: float) -> bool:
        """Wait for the lanes to end after `stop`; False where one is still computing."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _lane(self) -> None:
        while (taken := self._take()) is not None:
            batch, alone = taken
            try:
                self._run(batch, alone)
            finally:
                with self._changed:
                    self._busy -= 1

    def _take(self) -> tuple[list[Entry], bool] | None:
        with self._changed:
            while not self._jobs and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return None
            batch, first_seen = self._next_batch()
            self._busy += 1
            alone = self._busy == 1 and not self._jobs
            if self._jobs:
                self._changed.notify()
        now = self._clock()
        for job in first_seen:
            self._observer.waited(now - job.arrived)
        return batch, alone

    def _next_batch(self) -> tuple[list[Entry], list[Job]]:
        window: list[Entry] = []
        tokens = 0
        for entry in self._oldest():
            window.append(entry)
            tokens += entry[0]
            if tokens >= WINDOW_BATCHES * self._budget or len(window) == WINDOW_TEXTS:
                break
        turn = window[0]  # the oldest job's longest text
        window.sort(key=lambda entry: -entry[0])
        place = next(at for at, entry in enumerate(window) if entry is turn)
        limits = Limits(self._budget, self._limits.overhead)
        first, last = choose([entry[0] for entry in window], place, limits)
        batch = window[first:last]
        return batch, self._mark_taken(batch)

    def _oldest(self) -> Iterator[Entry]:
        """The waiting texts, those of the oldest job first, and of each job the longest first."""
        for job in self._jobs.values():
            for index in job.pending:
                yield len(job.texts[index]), job, index

    def _mark_taken(self, batch: list[Entry]) -> list[Job]:
        """Take the batch's texts off their jobs; returns the jobs of which these are the first ones."""
        taken: dict[int, tuple[Job, set[int]]] = {}
        for _, job, index in batch:
            taken.setdefault(id(job), (job, set()))[1].add(index)
        first_seen = []
        for key, (job, indices) in taken.items():
            if len(job.pending) == len(job.texts):
                first_seen.append(job)
            job.pending = [index for index in job.pending if index not in indices]
            if not job.pending:
                del self._jobs[key]
        self._waiting -= len(batch)
        self._waiting_tokens -= sum(entry[0] for entry in batch)
        return first_seen

    def _run(self, batch: list[Entry], alone: bool) -> None:
        ids = [job.texts[index] for _, job, index in batch]
        lengths = [entry[0] for entry in batch]
        began = self._clock()
        no_room: OutOfMemory | None = None
        try:
            vectors = self._compute(ids, alone=alone)
            if len(vectors) != len(batch):
                raise BackendError(f"the backend gave {len(vectors)} vectors for {len(batch)} texts")
        except (OutOfMemory, MemoryError) as error:
            no_room = OutOfMemory(str(error))  # without the traceback, which holds what the forward held
        except DeviceLost as error:
            self._lost(error)
        except Exception as error:  # whatever it was, everyone who waits for this batch is told
            for _, job, _ in batch:
                self._fail(job, error)
        else:
            seconds = self._clock() - began
            self._observer.computed(len(batch), sum(lengths), padded_tokens(lengths), seconds)
            self._learn(sum(lengths), seconds)
            self._deliver(batch, vectors)
        if no_room is not None:
            self._shrink(padded_tokens(lengths))
            self._split(batch, no_room)

    def _split(self, batch: list[Entry], error: OutOfMemory) -> None:
        if len(batch) == 1:
            self._fail(batch[0][1], error)
            return
        self._observer.split(len(batch))
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            wanted = [entry for entry in part if id(entry[1]) in self._open]
            if wanted:
                self._run(wanted, alone=False)

    def _deliver(self, batch: list[Entry], vectors: Vectors) -> None:
        bad = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist())
        done: list[Job] = []
        with self._changed:
            for row, (_, job, index) in enumerate(batch):
                if id(job) not in self._open or row in bad:
                    continue
                if job.vectors is None:
                    job.vectors = np.empty((len(job.texts), vectors.shape[1]), np.float32)
                job.vectors[index] = vectors[row]
                job.left -= 1
                if not job.left:
                    self._forget(job)
                    done.append(job)
        for job in done:
            job.on_done(job)
        for row in sorted(bad):
            self._fail(batch[row][1], NotFinite(batch[row][2]))

    def _fail(self, job: Job, error: Exception) -> None:
        with self._changed:
            if id(job) not in self._open:
                return
            self._forget(job)
            job.error = error
        job.on_done(job)

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(id(job), None) is not None:
            self._waiting -= len(job.pending)
            self._waiting_tokens -= sum(len(job.texts[index]) for index in job.pending)
        self._open.pop(id(job), None)

    def _lost(self, error: DeviceLost) -> None:
        with self._changed:
            self._stopped = True
            jobs = list(self._open.values())
            self._changed.notify_all()
        for job in jobs:
            self._fail(job, error)
        self._on_lost(error)

    def _shrink(self, failed: int) -> None:
        self._budget = max(1, min(self._budget, failed // 2))
        self._good_batches = 0

    def _learn(self, tokens: int, seconds: float) -> None:
        """Follow the rate that the queue drains at, and let a shrunken budget grow back."""
        rate = tokens / max(seconds, 1e-9) * max(1, self._busy)
        self._tokens_per_s += (rate - self._tokens_per_s) * (0.1 if self._tokens_per_s else 1.0)
        self._good_batches += 1
        if self._budget < self._limits.budget and self._good_batches >= GROW_AFTER_BATCHES:
            self._budget = min(self._limits.budget, self._budget * 5 // 4 + 1)
            self._good_batches = 0

    def _retry_after_s(self) -> int:
        if not self._tokens_per_s:
            return 1
        return min(60, max(1, math.ceil(self._waiting_tokens / self._tokens_per_s)))
