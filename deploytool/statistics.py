"""Exact percentiles and rates from raw samples. Pure Python, one sort.

Definition: the percentile P of n ordered samples is the sample of rank ceil(n * P / 100), counted from 1 (the
nearest-rank order statistic). It is always a latency that a request really had: nothing is interpolated,
nothing is bucketed.

How many samples a percentile needs:
- to differ from the maximum at all: 1 / (1 - p), so 10 for P90 and 20 for P95, from which on they are told;
- for a two-sided 95 % confidence interval of order statistics: the smallest n with p**n <= 0.025, that is
  36 for P90, 72 for P95, 368 for P99 and 3688 for P99.9 (David and Nagaraja, Order Statistics, section 7.1).
  P99 and P99.9 are not told below that: the highest samples of a few hundred are chance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

METHOD = "nearest-rank order statistic of raw samples (rank ceil(n*P/100)), successful requests only"
CONFIDENCE = 0.95
PERCENTS: dict[str, float] = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_PARTS = 100_000  # percent in thousandths: 99.9 is 99900 of 100000, exact in integers


def rank(count: int, percent: float) -> int:
    """The rank, from 1, of percentile `percent` (0 < percent <= 100) among `count` samples."""
    if count < 1 or not 0 < percent <= 100:
        raise ValueError(f"no rank for {percent} % of {count} samples")
    return -(-count * round(percent * 1000) // _PARTS)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The sample at `percent`; `ordered` is sorted ascending and not empty."""
    return ordered[rank(len(ordered), percent) - 1]


def samples_to_tell(percent: float) -> int:
    """The fewest samples for which this percentile is not the maximum by definition."""
    return math.ceil(round(100 / (100 - percent), 6))


def samples_for_interval(percent: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples for which a two-sided order-statistic interval of this percentile exists."""
    tail = (1 - confidence) / 2
    share = max(percent, 100 - percent) / 100
    return math.ceil(math.log(tail) / math.log(share))


def samples_needed(percent: float) -> int:
    """From how many samples on this percentile is told: P99 and above only with an interval."""
    return samples_for_interval(percent) if percent >= 99 else samples_to_tell(percent)


@functools.lru_cache(maxsize=4096)
def interval_ranks(count: int, percent: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks, from 1, of the order statistics that enclose a percentile; None where there are too few samples.

    The number of samples below the percentile is binomial(count, percent / 100), whatever the distribution of
    latencies. The low rank is the highest l with P(B < l) <= tail, the high one the lowest h with
    P(B >= h) <= tail, tail being half of 1 - confidence (David and Nagaraja, Order Statistics, section 7.1).
    Exact: the binomial's terms are summed outwards from both ends of what matters, in log space.
    """
    if count < samples_for_interval(percent, confidence):
        return None
    tail, share = (1 - confidence) / 2, percent / 100
    spread = 12 * math.sqrt(count * share * (1 - share)) + 60
    first, last = max(0, int(count * share - spread)), min(count, int(count * share + spread))
    # math.fsum is not needed: the terms of a tail grow towards the middle, and rounding stays below 1e-12
    below, low = 0.0, first
    while below + _binomial(count, low, share) <= tail:
        below += _binomial(count, low, share)
        low += 1
    above, high = 0.0, last
    while above + _binomial(count, high, share) <= tail:
        above += _binomial(count, high, share)
        high -= 1
    return low, high + 1


def _binomial(count: int, successes: int, share: float) -> float:
    log_ways = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(log_ways + successes * math.log(share) + (count - successes) * math.log1p(-share))


def interval(ordered: Sequence[float], percent: float) -> tuple[float, float] | None:
    """The 95 % confidence interval of a percentile: two of the samples; None where there are too few."""
    ranks = interval_ranks(len(ordered), percent)
    return None if ranks is None else (ordered[ranks[0] - 1], ordered[ranks[1] - 1])


class Summary(NamedTuple):
    """Percentiles in the samples' own unit; None where there are too few samples, and then `missing` says so.

    `intervals` and `missing` are by name: "p50" ... "p999".
    """

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    max: float | None
    mean: float | None
    intervals: dict[str, tuple[float, float]]
    missing: dict[str, str]

    @property
    def figures(self) -> dict[str, float | None]:
        """The percentiles, the highest and the mean, by name."""
        return {name: getattr(self, name) for name in (*PERCENTS, "max", "mean")}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, in one line for people."""
        lacks = [f"P{PERCENTS[name]:g} (needs {samples_needed(PERCENTS[name])})" for name in self.missing]
        return (f"too few samples for {', '.join(lacks)}",) if lacks else ()


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of raw samples (any order)."""
    count = len(samples)
    if not count:
        return Summary(None, None, None, None, None, None, None, {}, {})
    ordered = sorted(samples)
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    missing: dict[str, str] = {}
    for name, percent in PERCENTS.items():
        needed = 1 if name == "p50" else samples_needed(percent)
        values[name] = percentile(ordered, percent) if count >= needed else None
        if count < needed:
            missing[name] = f"{count} samples; P{percent:g} needs {needed}"
        elif (between := interval(ordered, percent)) is not None:
            intervals[name] = between
    return Summary(
        values["p50"], values["p90"], values["p95"], values["p99"], values["p999"],
        ordered[-1], math.fsum(ordered) / count, intervals, missing,
    )  # fmt: skip


def adjusted(samples: Sequence[float], lost: int) -> dict[str, float | Literal["infinite"] | None]:
    """Percentiles where each of the `lost` requests (errors, drops) took for ever.

    "infinite" where so many were lost; None where there are too few requests for the percentile.
    """
    ordered = sorted(samples)
    count = len(ordered) + lost
    found: dict[str, float | Literal["infinite"] | None] = {}
    for name, percent in PERCENTS.items():
        if count < (1 if name == "p50" else samples_needed(percent)):
            found[name] = None
            continue
        place = rank(count, percent)
        found[name] = ordered[place - 1] if place <= len(ordered) else "infinite"
    return found
