"""What a sample of queries can show: bootstrap intervals and the paired permutation test.

Percentile bootstrap over queries (Efron 1979); paired randomisation test by random sign flips of the
per-query differences (for retrieval: Smucker, Allan, Carterette, CIKM 2007). Seeded: the same values give the
same interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RESAMPLES = 10_000
SEED = 20250101
BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of per-query values with its percentile-bootstrap interval. ValueError on no values."""
    return bootstrap_all({"": values}, confidence)[""]


def bootstrap_all(values: Mapping[str, Sequence[float]], confidence: float = 0.95) -> dict[str, Interval]:
    """Several metrics of the same queries, on the same resamples. ValueError on no values."""
    import numpy as np

    columns = np.array(list(values.values()), dtype=np.float64).T
    n = len(columns)
    if n == 0:
        raise ValueError("no values")
    generator = np.random.default_rng(SEED)
    means = np.empty((RESAMPLES, len(values)))
    step = max(1, BLOCK // n)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        picks = generator.integers(0, n, size=(count, n))
        picks += np.arange(count)[:, None] * n
        times = np.bincount(picks.ravel(), minlength=count * n).reshape(count, n)
        means[start : start + count] = times @ columns / n
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(means, [tail, 1 - tail], axis=0)
    centres = columns.mean(axis=0)
    return {
        name: Interval(float(centre), float(low), float(high), n)
        for name, centre, low, high in zip(values, centres, lows, highs, strict=True)
    }


@dataclass(frozen=True)
class Difference:
    """Mean of a - b per query, its interval, and the two-sided p-value of the paired permutation test."""

    interval: Interval
    p_value: float

    @property
    def real(self) -> bool:
        """Whether this set can show that the two systems differ (5 % level)."""
        return self.p_value < 0.05


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two systems on the same queries, in the same order. ValueError where the lengths differ."""
    import numpy as np

    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    observed = abs(differences.mean())
    changed = differences[differences != 0]
    interval = bootstrap(differences.tolist())
    if changed.size == 0:
        return Difference(interval, 1.0)
    generator = np.random.default_rng(SEED)
    extreme = 0
    step = max(1, BLOCK // changed.size)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        signs = generator.integers(0, 2, size=(count, changed.size), dtype=np.int8) * 2 - 1
        means = np.abs(signs @ changed) / differences.size
        extreme += int((means >= observed - 1e-12).sum())
    return Difference(interval, (extreme + 1) / (RESAMPLES + 1))
