"""The arithmetic of noise, against tables, closed forms and simulation."""
# ruff: noqa: S311

from __future__ import annotations

import math
from random import Random
from statistics import mean, stdev

import pytest

from deploytool.noise import (
    Requests,
    at_most,
    clustering,
    error_spread,
    pooled,
    standard_errors,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [(0.975, 1, 12.706), (0.975, 4, 2.776), (0.995, 2, 9.925), (0.975, 30, 2.042), (0.975, math.inf, 1.960)],
)
def test_students_t_is_that_of_the_tables(probability: float, freedom: float, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=0.001)


@pytest.mark.parametrize(
    ("count", "trials", "share"), [(0, 20, 0.1), (3, 50, 0.05), (30, 1000, 0.05), (5, 1049, 0.01)]
)
def test_the_binomial_is_its_sum(count: int, trials: int, share: float) -> None:
    exact = sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(count + 1))
    assert at_most(count, trials, share) == pytest.approx(exact, rel=1e-9)
    assert at_most(trials, trials, share) == 1.0


def test_how_many_samples_a_p99_takes() -> None:
    """The one-sided 95 % bounds: 299 with none over, 473 with one, 1049 with five."""
    for over, count in ((0, 299), (1, 473), (5, 1049)):
        assert at_most(over, count, 0.01) <= 0.05 < at_most(over, count - 1, 0.01)


def window(chance: Random, count: int, *, spells: bool) -> Requests:
    """Latencies with a slow spell now and then, or as many slow requests one by one."""
    found = Requests(window_s=20.0)
    for number in range(count):
        start = 20.0 * number / count
        slow = int(start) % 5 == 0 if spells else chance.random() < 0.2
        found.start_s.append(start)
        found.latency_ms.append(chance.lognormvariate(3, 0.2) * (2 if slow else 1))
    return found


def test_the_bootstrap_finds_the_spread_of_independent_requests() -> None:
    chance = Random(1)
    percents = {"p50": 50.0, "p90": 90.0}
    means, errors = [], []
    for _ in range(40):
        found = window(chance, 600, spells=False)
        means.append(math.log(mean(found.latency_ms)))
        errors.append(standard_errors(found, percents)["mean"])
    assert mean(errors) == pytest.approx(stdev(means), rel=0.4)


def test_requests_that_are_slow_together_are_noisier() -> None:
    alone = standard_errors(window(Random(2), 2000, spells=False), {"p90": 90.0})
    together = standard_errors(window(Random(2), 2000, spells=True), {"p90": 90.0})
    assert together["mean"] > 2 * alone["mean"]
    assert standard_errors(Requests(window_s=5.0), {"p50": 50.0}) == {}


def test_the_design_effect_counts_bursts() -> None:
    assert clustering([1, 1, 1, 1], [10, 10, 10, 10]) == 1.0
    assert clustering([4, 0, 0, 0], [10, 10, 10, 10]) == pytest.approx(12 / 2.7)
    assert clustering([0, 0], [5, 5]) == 1.0


def test_no_error_of_few_is_not_certainly_none() -> None:
    few, many = Requests(window_s=1.0), Requests(window_s=1.0)
    for number in range(50):
        few.start_s.append(number / 50)
        few.latency_ms.append(1.0)
    for number in range(5000):
        many.start_s.append(number / 5000)
        many.latency_ms.append(1.0)
    assert error_spread(few)[0] == error_spread(many)[0] == 0.0
    assert error_spread(few)[1] > 10 * error_spread(many)[1] > 0


def test_repeats_are_pooled_over_cells() -> None:
    spread, freedom = pooled([[100.0, 110.0, 90.0], [10.0, 11.0, 9.0], [5.0]])
    assert freedom == 4
    assert spread == pytest.approx(stdev([math.log(value) for value in (100, 110, 90)]))
    assert pooled([[5.0], []]) == (0.0, 0)
