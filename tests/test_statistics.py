"""Percentiles by their definition, and what is said where samples are too few."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool import statistics


@given(st.integers(1, 20_000), st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9, 100.0]))
def test_rank_is_the_smallest_that_covers_the_share(count: int, percent: float) -> None:
    share = Fraction(round(percent * 10), 1000)
    rank = statistics.rank(count, percent)
    assert Fraction(rank, count) >= share
    assert rank == 1 or Fraction(rank - 1, count) < share


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([50.0, 90.0, 99.0]))
def test_a_percentile_is_a_sample_and_covers_its_share(samples: list[float], percent: float) -> None:
    ordered = sorted(samples)
    value = statistics.percentile(ordered, percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) * 100 >= percent * len(samples)
    assert sum(sample < value for sample in samples) * 100 < percent * len(samples)


def test_known_values() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert statistics.percentile(ordered, 50) == 50
    assert statistics.percentile(ordered, 99) == 99
    assert statistics.percentile(ordered, 99.9) == 100
    # 0.07 * 100 is 7.000000000000001 in floats: the rank must still be 7
    assert statistics.rank(100, 7) == 7


@pytest.mark.parametrize(("count", "percent"), [(0, 50), (5, 0), (5, 101), (-1, 99)])
def test_no_rank_without_samples_or_share(count: int, percent: float) -> None:
    with pytest.raises(ValueError, match="no rank"):
        statistics.rank(count, percent)


@pytest.mark.parametrize(("percent", "needed"), [(99.0, 368), (99.9, 3688), (50.0, 6)])
def test_samples_for_an_interval(percent: float, needed: int) -> None:
    assert statistics.samples_for_interval(percent) == needed
    # by definition: the chance that all samples lie below the percentile is 2.5 % at most, and one fewer has
    # more
    share = percent / 100
    assert share**needed <= 0.025 < share ** (needed - 1)


@pytest.mark.parametrize(("percent", "needed"), [(90.0, 10), (95.0, 20), (99.0, 100), (99.9, 1000)])
def test_samples_to_tell(percent: float, needed: int) -> None:
    assert statistics.samples_to_tell(percent) == needed


def test_a_summary_says_what_it_lacks() -> None:
    few = statistics.summarise([3.0, 1.0, 2.0])
    assert (few.p50, few.max, few.mean) == (2.0, 3.0, 2.0)
    assert (few.p90, few.p95, few.p99, few.p999) == (None, None, None, None)
    assert few.notes == (
        "too few samples for P90 (needs 10), P95 (needs 20), P99 (needs 368), P99.9 (needs 3688)",
    )
    assert few.missing["p99"] == "3 samples; P99 needs 368"
    assert few.intervals == {}

    below, at = (statistics.summarise([float(value) for value in range(count)]) for count in (367, 368))
    assert (below.p99, at.p99) == (None, 364.0)
    assert "p99" in below.missing
    assert at.intervals["p99"] == (359.0, 367.0)

    enough = statistics.summarise([float(value) for value in range(3688)])
    assert enough.p999 == statistics.percentile([float(value) for value in range(3688)], 99.9)
    assert enough.notes == ()
    assert set(enough.intervals) == {"p50", "p90", "p95", "p99", "p999"}


def exact_ranks(count: int, percent: float) -> tuple[int, int]:
    """By the definition, in fractions: the narrowest ranks of which either side is missed at most 2.5 %."""
    share, tail = Fraction(str(percent)) / 100, Fraction(25, 1000)
    terms = [comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    low, below = 0, Fraction(0)
    while below + terms[low] <= tail:
        below, low = below + terms[low], low + 1
    high, above = count, Fraction(0)
    while above + terms[high] <= tail:
        above, high = above + terms[high], high - 1
    return low, high + 1


@pytest.mark.parametrize("percent", [50.0, 90.0, 95.0, 99.0])
@pytest.mark.parametrize("count", [5, 6, 35, 36, 72, 367, 368, 900])
def test_interval_ranks_are_exact(count: int, percent: float) -> None:
    ranks = statistics.interval_ranks(count, percent)
    if count < statistics.samples_for_interval(percent):
        assert ranks is None
    else:
        assert ranks == exact_ranks(count, percent)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """1,000 runs of 500 exponential samples, whose P99 is ln(100): 95 % of the intervals hold it, or more."""
    chance = random.Random(7)  # noqa: S311
    held = 0
    for _ in range(1000):
        found = statistics.interval(sorted(chance.expovariate(1) for _ in range(500)), 99)
        assert found is not None
        held += found[0] <= log(100) <= found[1]
    assert 940 <= held <= 995


def test_the_adjusted_percentile_counts_what_was_lost() -> None:
    samples = [float(value) for value in range(1, 991)]
    assert statistics.adjusted(samples, 0)["p99"] == 981.0
    assert statistics.adjusted(samples, 10)["p99"] == 990.0
    assert statistics.adjusted(samples, 11)["p99"] == "infinite"
    assert statistics.adjusted(samples, 10)["p50"] == 500.0
    assert statistics.adjusted([1.0], 2)["p50"] == "infinite"
    assert statistics.adjusted([1.0], 2)["p99"] is None


def test_no_samples_give_no_figures() -> None:
    empty = statistics.summarise([])
    assert set(empty.figures.values()) == {None}
    assert (empty.intervals, empty.missing, empty.notes) == ({}, {}, ())
