"""What the server is doing: loading, ready, stopping or failed; and the way of a request through it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, TypeVar

from deploytool.st_server import model_folder, preparing, prompts
from deploytool.st_server import vectors as encoding
from deploytool.st_server.backends import choice
from deploytool.st_server.backends.base import Backend, ModelInfo
from deploytool.st_server.batcher import Batcher
from deploytool.st_server.config import Config
from deploytool.st_server.errors import (
    DeviceLost,
    RequestError,
    overloaded,
    unavailable,
)
from deploytool.st_server.jobs import Job, QueueFull, Stopped, result
from deploytool.st_server.metrics import Metrics
from deploytool.st_server.preparing import Prepared
from deploytool.st_server.stages import say

State = Literal["loading", "ready", "stopping", "failed"]
Result = TypeVar("Result")

GC_AFTER = 10_000  # objects; at 700, as Python has it, collections take a twentieth of the event loop
# Work of about this size takes a millisecond: smaller work is done on the event loop, larger in a thread.
INLINE_BODY_BYTES = 16_384
INLINE_NUMBERS = 16_384


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


class Service:
    """One model being served. `load` runs in a thread of its own; the rest on the event loop."""

    def __init__(self, config: Config, metrics: Metrics, on_lost: Callable[[DeviceLost], None]) -> None:
        self.config = config
        self.metrics = metrics
        self.state: State = "loading"
        self.stage = "starting"
        self.active = 0  # embedding requests read in full and not answered
        self.created = int(time.time())
        self._on_lost = on_lost
        self._backend: Backend | None = None
        self._prompts = prompts.Prompts({})
        self._batcher: Batcher | None = None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="prepare")
        metrics.queue_texts.set_function(lambda: self._batcher.waiting if self._batcher else 0)
        metrics.unanswered.set_function(lambda: self._batcher.unanswered if self._batcher else 0)
        metrics.budget.set_function(lambda: self._batcher.budget if self._batcher else 0)

    def load(self) -> None:
        """Load, prove and warm up the model. Raises StartError."""
        folder = model_folder.locate(self.config, self._enter)
        self._prompts = prompts.read(folder, self.config)
        backend = choice.load(self.config, folder, self._enter)
        self._enter("warming up")
        limits = backend.warm_up()
        info = backend.info
        batcher = Batcher(
            backend.embed,
            self.metrics,
            limits=limits,
            max_waiting=self.config.max_queue,
            lanes=backend.lanes,
            on_lost=self._on_lost,
        )
        batcher.start()
        # A collection over all that torch made takes 100 ms and more: keep it out of the requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_AFTER)
        self._backend, self._batcher = backend, batcher
        self.metrics.describe(
            name=self.config.served_name, model=info.model, backend=info.backend, dtype=info.dtype,
            device=info.device, dimensions=str(info.dimensions), max_length=str(info.max_length),
        )  # fmt: skip
        say(
            f"note: {info.dimensions} dimensions, {info.max_length} tokens per text, {info.dtype} on "
            f"{info.device}, {backend.lanes} lanes, {limits.budget} tokens per forward"
        )
        if self.state == "loading":
            self.state = "ready"
            self.metrics.ready(True)
            self._enter("ready")

    @property
    def warmed_mib(self) -> float | None:
        """See backends.base.Backend."""
        return None if self._backend is None else self._backend.warmed_mib

    def begin_stop(self) -> None:
        """Take no new requests; those inside go on."""
        if self.state != "failed":
            self.state = "stopping"
        self.metrics.ready(False)

    @property
    def idle(self) -> bool:
        return self.active == 0

    def finish(self) -> bool:
        """Answer what is left with 503 and end the lanes; False where one still computes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._batcher is None:
            return True
        self._batcher.stop()
        return self._batcher.join(1.0)

    def abort(self) -> None:
        """Answer every open request with 503 now."""
        if self._batcher is not None:
            self._batcher.stop()

    def info(self) -> ModelInfo:
        """Raises RequestError (503) while there is no model yet."""
        if self._backend is None:
            raise unavailable(f"the model is not loaded yet ({self.stage})", code="loading")
        return self._backend.info

    def refusal(self, texts: int = 1) -> RequestError | None:
        """Why so many texts are not taken now: 503 unless ready, 429 where the queue has no room.

        Equal ones are one object.
        """
        if self.state != "ready" or self._batcher is None:
            return _not_ready(self.state, self.stage)
        retry_after_s = self._batcher.full_for_s(texts)
        return None if retry_after_s is None else _full(self.config.max_queue, retry_after_s)

    async def prepare(self, path: str, body: bytes) -> Prepared:
        """Raises RequestError (400, 404)."""
        backend, config, known = self._backend, self.config, self._prompts
        assert backend is not None  # noqa: S101 - there was no refusal

        if (
            path == preparing.RERANK
        ):  # the query is read once for each document: a small body can be much work
            return await self._in_thread(lambda: preparing.pairs(body, backend, config))
        if len(body) <= INLINE_BODY_BYTES:
            return preparing.texts(body, backend, config, known)
        return await self._in_thread(lambda: preparing.texts(body, backend, config, known))

    async def compute(self, prepared: Prepared, gone: Callable[[], Awaitable[object]]) -> encoding.Vectors:
        """Vectors in the order of the texts. `gone` returns when the client has left.

        Raises RequestError or ClientGone.
        """
        assert self._batcher is not None  # noqa: S101 - there was no refusal
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not answered.done():
                answered.set_result(None)

        def on_done(job: Job) -> None:
            del job
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(resolve)

        job = Job(prepared.ids, on_done)
        try:
            self._batcher.submit(job)
        except QueueFull as full:
            raise _full(self.config.max_queue, full.retry_after_s) from full
        except Stopped as stopped:
            raise unavailable("the server is stopping", code="stopping") from stopped
        watcher = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((answered, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientGone
        finally:
            watcher.cancel()
            if not answered.done():
                self._batcher.abandon(job)
        return result(job)

    async def answer(self, prepared: Prepared, vectors: encoding.Vectors) -> bytes:
        """The body of the response."""

        def write() -> bytes:
            return preparing.written(prepared, vectors, self.config)

        return write() if vectors.size <= INLINE_NUMBERS else await self._in_thread(write)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:
            if self.state == "ready":
                raise
            raise unavailable("the server is stopping", code="stopping") from error

    def _enter(self, stage: str) -> None:
        self.stage = stage
        say(f"stage: {stage}")


@lru_cache(maxsize=64)
def _not_ready(state: State, stage: str) -> RequestError:
    words = {"loading": f"the model is not loaded yet ({stage})", "failed": "the server failed"}
    return unavailable(words.get(state, "the server is stopping"), code=state)


@lru_cache(maxsize=64)
def _full(limit: int, retry_after_s: int) -> RequestError:
    return overloaded(
        f"the queue of {limit} texts has no room for this request; try again later", retry_after_s
    )
