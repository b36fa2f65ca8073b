"""A stand-in for a measured server: a queue with a fixed service time and a number of slots (M/D/c).

Its capacity is known, its latencies are those of the model, and no time passes but on its own clock.
"""

from __future__ import annotations

import heapq
import math
from random import Random

from deploytool.capacity.search import Observation
from deploytool.noise import Requests
from deploytool.records import Cell, Latency

WARMUP_S = 1.0
OVERHEAD_S = 2.5


def latencies(
    rate: float, seconds: float, seed: object, slots: int, service_s: float
) -> list[tuple[float, float]]:
    """(due in s, latency in ms) of Poisson arrivals."""
    chance = Random(str(seed))  # noqa: S311 - a model's arrivals
    free = [0.0] * slots
    now, found = 0.0, []
    while now < seconds:
        now += chance.expovariate(rate)
        done = max(now, free[0]) + service_s
        heapq.heapreplace(free, done)
        found.append((now, (done - now) * 1000))
    return found


def p99_ms(rate: float, slots: int, service_s: float) -> float:
    """The model's P99 at a rate, from a long run."""
    values = sorted(value for _, value in latencies(rate, 1500, "truth", slots, service_s))
    return values[math.ceil(len(values) * 0.99) - 1]


class QueueModel:
    """Measures the model: an instance is the `measure` of a search.

    Beyond `most_qps` the client is at fault.
    """

    def __init__(
        self,
        seed: int,
        *,
        slots: int = 4,
        service_s: float = 0.04,
        errors: float = 0.0,
        most_qps: float = 1e9,
    ) -> None:
        self.seed, self.slots, self.service_s = seed, slots, service_s
        self.errors, self.most_qps = errors, most_qps
        self.windows = self.requests = 0
        self.passed_s = 0.0

    def __call__(self, rate: float, duration_s: float) -> Observation:
        self.windows += 1
        self.passed_s += WARMUP_S + duration_s + OVERHEAD_S
        chance = Random(f"errors {self.seed} {self.windows}")  # noqa: S311
        requests = Requests(window_s=duration_s)
        seconds = WARMUP_S + duration_s
        for due, latency in latencies(rate, seconds, (self.seed, self.windows), self.slots, self.service_s):
            if not WARMUP_S <= due < seconds:
                requests.beside.append((due, latency))
            elif chance.random() < self.errors:
                requests.failed_s.append(due)
            else:
                requests.start_s.append(due)
                requests.latency_ms.append(latency)
        self.requests += len(requests) + len(requests.failed_s)
        void = f"the client cannot do {rate:g}/s" if rate > self.most_qps else None
        return Observation(requests, _cell(rate, requests), void)


def _cell(rate: float, requests: Requests) -> Cell:
    ordered = sorted(requests.latency_ms)
    count = len(ordered)
    qps = count / requests.window_s
    return Cell(
        batch=1,
        concurrency=64,
        mode="open",
        rate=rate,
        requests=count,
        errors={"5xx": len(requests.failed_s)} if requests.failed_s else {},
        duration_s=requests.window_s,
        qps=qps,
        texts_per_s=qps,
        tokens_per_s=7 * qps,
        latency_ms=Latency(p50=ordered[count // 2], p99=ordered[math.ceil(count * 0.99) - 1])
        if count
        else Latency(),
    )
