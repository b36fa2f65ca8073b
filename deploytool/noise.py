"""How much a measured figure would move if it were measured again. Pure Python.

Within a run: the block bootstrap over time (Künsch, Annals of Statistics 17, 1989). Requests that are near in
time share a queue, a batch and a stall, so they are resampled in blocks of time and not one by one: single
requests would make every interval too short. Between runs: the spread of repeats, pooled over the cells.

Spreads are standard errors of the logarithm, so that they are relative, and add in quadrature.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from statistics import NormalDist, stdev

from deploytool.statistics import rank

RESAMPLES = 200
SEED = 20250101
LEAST_BLOCKS = 8
MOST_BLOCKS = 40
LATENCIES_IN_A_BLOCK = 4  # a block is longer than requests influence one another, where the window allows


@dataclass
class Requests:
    """The requests of one measured window: `start_s` and `latency_ms` of successes, `failed_s` of the rest.

    `beside` are (start_s, latency_ms) of successes that began outside the window: a part of their time may
    lie in it.
    """

    window_s: float
    start_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    failed_s: list[float] = field(default_factory=list)
    beside: list[tuple[float, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start_s)

    @cached_property
    def opened_s(self) -> float:
        return min([*self.start_s, *self.failed_s], default=0.0)

    @cached_property
    def blocks(self) -> int:
        """Into how many blocks of equal time the window is cut."""
        mean_s = math.fsum(self.latency_ms) / 1000 / max(1, len(self))
        fitting = self.window_s / (LATENCIES_IN_A_BLOCK * mean_s) if mean_s else MOST_BLOCKS
        return max(LEAST_BLOCKS, min(MOST_BLOCKS, int(fitting)))

    def block_of(self, start_s: float) -> int:
        part = (start_s - self.opened_s) / self.window_s if self.window_s else 0.0
        return min(self.blocks - 1, max(0, int(part * self.blocks)))

    @cached_property
    def latencies_by_block(self) -> list[list[float]]:
        found: list[list[float]] = [[] for _ in range(self.blocks)]
        for start, latency in zip(self.start_s, self.latency_ms, strict=True):
            found[self.block_of(start)].append(latency)
        for block in found:
            block.sort()
        return found

    @cached_property
    def answered_by_block(self) -> list[float]:
        """Answers in each block, each counted by the share of its time that lies there."""
        found = [0.0] * self.blocks
        length = self.window_s / self.blocks
        for start, latency_ms in [*zip(self.start_s, self.latency_ms, strict=True), *self.beside]:
            begin = start - self.opened_s
            end = begin + latency_ms / 1000
            first, last = math.floor(begin / length), math.floor(end / length)
            for block in range(max(0, first), min(self.blocks - 1, last) + 1):
                inside = min(end, (block + 1) * length) - max(begin, block * length)
                found[block] += inside / (end - begin) if end > begin else 1.0
        return found


def standard_errors(requests: Requests, percents: Mapping[str, float]) -> dict[str, float]:
    """Standard errors of the logarithm of "qps", "mean" and each named percentile, by block bootstrap.

    A figure that some resample lacks (an empty one, a zero) has none.
    """
    if not len(requests) or requests.window_s <= 0:
        return {}
    chance = Random(SEED)  # noqa: S311 - the same samples give the same interval
    ordered = sorted(requests.latency_ms)
    blocks, answered = requests.latencies_by_block, requests.answered_by_block
    sums = [math.fsum(block) for block in blocks]
    drawn: dict[str, list[float]] = {name: [] for name in ("qps", "mean", *percents)}
    for _ in range(RESAMPLES):
        times = [0] * len(blocks)
        for pick in chance.choices(range(len(blocks)), k=len(blocks)):
            times[pick] += 1
        chosen = [(weight, index) for index, weight in enumerate(times) if weight]
        count = sum(weight * len(blocks[index]) for weight, index in chosen)
        if not count:
            continue
        drawn["qps"].append(math.fsum(weight * answered[index] for weight, index in chosen))
        drawn["mean"].append(math.fsum(weight * sums[index] for weight, index in chosen) / count)
        for name, percent in percents.items():
            drawn[name].append(_weighted(ordered, [(w, blocks[i]) for w, i in chosen], rank(count, percent)))
    return {name: stdev(map(math.log, values)) for name, values in drawn.items() if _usable(values)}


def _usable(values: Sequence[float]) -> bool:
    return len(values) > RESAMPLES // 2 and min(values) > 0


def _weighted(ordered: Sequence[float], blocks: Sequence[tuple[int, Sequence[float]]], wanted: int) -> float:
    """The smallest sample with at least `wanted` resampled ones at or below it."""
    low, high = 0, len(ordered) - 1
    while low < high:
        middle = (low + high) // 2
        value = ordered[middle]
        if sum(weight * bisect_right(block, value) for weight, block in blocks) >= wanted:
            high = middle
        else:
            low = middle + 1
    return ordered[low]


def clustering(counts: Sequence[float], totals: Sequence[float]) -> float:
    """The design effect (Kish): how much more a share varies between blocks than independent events would.

    At least 1. `counts` of `totals` events in each block.
    """
    kept = [(count, total) for count, total in zip(counts, totals, strict=True) if total > 0]
    whole = sum(total for _, total in kept)
    share = sum(count for count, _ in kept) / whole if whole else 0.0
    if len(kept) < 2 or not 0 < share < 1:
        return 1.0
    squares = math.fsum((count - share * total) ** 2 for count, total in kept)
    expected = whole * share * (1 - share) * (len(kept) - 1) / len(kept)
    return max(1.0, squares / expected)


def error_spread(requests: Requests) -> tuple[float, float]:
    """Share of failed requests and its standard error, both 0 to 1.

    One success and one failure are added (Agresti and Caffo 2000), so that none of 50 is not certainly none.
    """
    failed = [0.0] * requests.blocks
    for start in requests.failed_s:
        failed[requests.block_of(start)] += 1
    totals = [len(block) + bad for block, bad in zip(requests.latencies_by_block, failed, strict=True)]
    count, whole = math.fsum(failed), math.fsum(totals)
    share = count / whole if whole else 0.0
    smooth = (count + 1) / (whole + 2)
    spread = math.sqrt(smooth * (1 - smooth) / (whole + 2) * clustering(failed, totals))
    return share, spread


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation of the logarithm within groups of repeats, pooled, and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for group in groups:
        logs = [math.log(value) for value in group if value > 0]
        if len(logs) > 1:
            mean = math.fsum(logs) / len(logs)
            squares += math.fsum((value - mean) ** 2 for value in logs)
            freedom += len(logs) - 1
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def t_quantile(probability: float, freedom: float = math.inf) -> float:
    """Student's t: the value below which `probability` (0.5 <= p < 1) lies. `freedom` inf: the normal."""
    if math.isinf(freedom):
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, 2.0
    while 1 - _t_tail(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if 1 - _t_tail(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _t_tail(value: float, freedom: float) -> float:
    """P(T > value) for value >= 0: half of the regularised incomplete beta I_x(freedom/2, 1/2)."""
    return 0.5 * incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 0.0  # evaluated from the back: 200 terms reach double precision for the sizes met here
    for m in range(200, 0, -1):
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = odd / (1 + even / (1 + fraction))
    return math.exp(front) / a / (1 + fraction)


def at_most(count: float, trials: float, share: float) -> float:
    """P(X <= count) of `trials` independent events of probability `share`; fractions are interpolated."""
    if count >= trials:
        return 1.0
    return incomplete_beta(1 - share, trials - count, count + 1)
