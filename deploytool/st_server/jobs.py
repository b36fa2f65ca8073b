"""What passes between the HTTP side and the batcher: a job, its one answer, and who computes and watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploytool.st_server.errors import BackendError, DeviceLost, OutOfMemory, RequestError, unavailable

Vectors = npt.NDArray[np.float32]
Ids = Sequence[int]


class Compute(Protocol):
    """Token ids -> float32 [len(batch), dim]. `alone`: nothing else waits or computes, take all threads."""

    def __call__(self, batch: Sequence[Ids], *, alone: bool) -> Vectors: ...


class Observer(Protocol):
    """Told what happens, from the lanes' threads."""

    def waited(self, seconds: float) -> None: ...
    def computed(self, texts: int, tokens: int, padded: int, seconds: float) -> None: ...
    def split(self, texts: int) -> None: ...


class QueueFull(Exception):
    """Too many texts wait. `retry_after_s` is when they will have been computed at the present rate."""

    def __init__(self, waiting: int, limit: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} texts wait already, {limit} may")
        self.retry_after_s = retry_after_s


class Stopped(Exception):
    """The server ends before this job was computed."""


class NotFinite(BackendError):
    """The model gave NaN or infinity for the text `index` of the request."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the model gave a vector with NaN or infinity for input {index}")
        self.index = index


class Job:
    """One request's texts. `on_done` is called once, from any thread: see `vectors` or `error` then."""

    __slots__ = ("arrived", "error", "left", "on_done", "pending", "texts", "vectors")

    def __init__(self, texts: Sequence[Ids], on_done: Callable[[Job], None]) -> None:
        self.texts = texts
        self.on_done = on_done
        self.pending = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        self.left = len(texts)
        self.vectors: Vectors | None = None
        self.error: Exception | None = None
        self.arrived = 0.0


def result(job: Job) -> Vectors:
    """The vectors of a job that is done, in the order of its texts. Raises RequestError (500, 503)."""
    error = job.error
    if error is None and job.vectors is not None:
        return job.vectors
    if isinstance(error, Stopped):
        raise unavailable("the server stopped before this request was computed", code="stopping") from error
    if isinstance(error, NotFinite):
        raise RequestError(500, str(error), code="not_finite", param=f"input[{error.index}]") from error
    if isinstance(error, OutOfMemory):
        message = "out of memory: one text of this request does not fit into the memory that is free now"
        raise RequestError(500, message, code="out_of_memory") from error
    if isinstance(error, DeviceLost):
        raise RequestError(500, "the device failed; the server is ending", code="device_lost") from error
    raise RequestError(500, f"the batch failed: {type(error).__name__}", code="batch_failed") from error
