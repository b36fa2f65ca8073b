"""The texts on which a backend's vectors are compared with float32 torch, and how backends are compared."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deploytool.st_server.backends.base import Backend
from deploytool.st_server.vectors import unit

Vectors = npt.NDArray[np.float32]

PROBES = (
    "A model is deployed where its vectors are proven.",
    "a",
    "你好，世界：嵌入模型的部署与压测",
    "def load(path: str) -> list[float]:\n    return [float(x) for x in open(path)]",
    "Ünïcödé and 👩‍👩‍👧‍👦 in one text, with a zero\u200bwidth space",
    "latency 🚀 throughput " * 60,
    "How many requests per second does one card sustain before the ninety-ninth percentile breaks?",
    "SELECT model, AVG(latency_ms) FROM runs GROUP BY model ORDER BY 2 DESC;",
)
SAME = 0.9999  # float32; the lowest cosine that counts as equal
ALONE, TEXTS, LENGTH, TIMES = 16, 8, 64, 7


def cosines(left: Vectors, right: Vectors) -> Vectors:
    """Of each pair of rows."""
    found: Vectors = (unit(left) * unit(right)).sum(axis=1)
    return found


def computed(backend: Backend, texts: Sequence[str] = PROBES) -> Vectors:
    """The texts' vectors, each alone and all in one padded batch: [2 * len(texts), dimensions]."""
    ids = backend.tokenizer.encode(texts, truncate=True)
    alone = [backend.embed([row], alone=True) for row in ids]
    return np.concatenate([*alone, backend.embed(ids, alone=False)])


def score(backend: Backend) -> float:
    """Milliseconds, the geometric mean of one short text and of a batch on one lane: lower is faster."""

    def timed(texts: int, length: int, alone: bool) -> float:
        token = min(1000, backend.info.vocabulary - 1)
        batch = [[token] * min(length, backend.info.max_length)] * texts
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            backend.embed(batch, alone=alone)
            times.append(time.perf_counter() - began)
        return min(times) * 1000  # the best: whatever else the machine does only adds

    return float((timed(1, ALONE, True) * timed(TEXTS, LENGTH, False)) ** 0.5)
