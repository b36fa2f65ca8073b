"""Ranking by weights: swing weights, how far they matter, and what is not known."""

from __future__ import annotations

import pytest

from deploytool.errors import BadInput
from deploytool.weighing import parse_weights, rank

VALUES: dict[str, dict[str, float | None]] = {
    "good": {"quality": 0.8, "latency": 40.0, "memory": 4000.0, "cost": None},
    "middle": {"quality": 0.7, "latency": 20.0, "memory": 1000.0, "cost": None},
    "fast": {"quality": 0.6, "latency": 10.0, "memory": 2000.0, "cost": 0.1},
}
WEIGHTS = {"quality": 0.5, "latency": 0.3, "memory": 0.2}


def test_the_best_scores_1_the_worst_0_and_halving_counts_alike() -> None:
    found = rank(VALUES, WEIGHTS)
    assert found is not None
    scores = {one.name: one.scores for one in found.standings}
    assert scores["good"] == pytest.approx({"quality": 1.0, "latency": 0.0, "memory": 0.0})
    assert scores["middle"] == pytest.approx({"quality": 0.5, "latency": 0.5, "memory": 1.0})
    assert scores["fast"] == pytest.approx({"quality": 0.0, "latency": 1.0, "memory": 0.5})
    assert [one.name for one in found.standings] == ["middle", "good", "fast"]
    assert found.standings[0].score == pytest.approx(0.5 * 0.5 + 0.3 * 0.5 + 0.2)


def test_the_same_weights_in_other_units_rank_the_same() -> None:
    assert rank(VALUES, WEIGHTS) == rank(VALUES, {name: 10 * value for name, value in WEIGHTS.items()})


@pytest.mark.parametrize("criterion", list(WEIGHTS))
def test_the_first_stays_first_exactly_as_far_as_is_said(criterion: str) -> None:
    found = rank(VALUES, WEIGHTS)
    assert found is not None
    low, high = found.holds[criterion]
    assert low <= WEIGHTS[criterion] <= high

    def first(weight: float) -> str:
        rest = 1 - WEIGHTS[criterion]
        weights = {name: value / rest * (1 - weight) for name, value in WEIGHTS.items()}
        changed = rank(VALUES, {**weights, criterion: weight})
        assert changed is not None
        return changed.standings[0].name

    assert first(max(low + 1e-6, 1e-9)) == first(min(high - 1e-6, 1 - 1e-9)) == "middle"
    if low > 0:
        assert first(low - 1e-6) != "middle"
    if high < 1:
        assert first(high + 1e-6) != "middle"


def test_the_share_of_first_places_is_the_area_of_the_weightings() -> None:
    """Two systems, two criteria, each better in one: half of all weightings each; a third that never wins."""
    values: dict[str, dict[str, float | None]] = {
        "a": {"quality": 1.0, "latency": 4.0},
        "b": {"quality": 0.0, "latency": 1.0},
        "never": {"quality": 0.4, "latency": 3.9},
    }
    found = rank(values, {"quality": 0.9, "latency": 0.1})
    assert found is not None
    shares = {one.name: one.first_share for one in found.standings}
    assert shares["a"] == pytest.approx(0.5, abs=0.02) and shares["never"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert found == rank(values, {"quality": 0.9, "latency": 0.1})


def test_what_is_alike_is_first_together() -> None:
    values: dict[str, dict[str, float | None]] = {name: {"quality": 0.5} for name in ("a", "b")}
    found = rank(values, {"quality": 1})
    assert found is not None and [one.first_share for one in found.standings] == [0.5, 0.5]


def test_what_is_not_known_is_dropped_or_has_no_place() -> None:
    found = rank({**VALUES, "url": {"quality": 0.9, "latency": 1.0}}, {**WEIGHTS, "cost": 1.0})
    assert found is not None
    assert found.dropped == {"cost": "known of 1 of 4 systems"}
    assert found.unranked == {"url": "memory not known"}
    assert sum(found.weights.values()) == pytest.approx(1) and "cost" not in found.weights
    assert rank({"a": {"quality": 1.0}}, WEIGHTS) is None


def test_a_cost_of_nothing_can_be_ranked() -> None:
    values: dict[str, dict[str, float | None]] = {"free": {"cost": 0.0}, "dear": {"cost": 2.0}}
    found = rank(values, {"cost": 1})
    assert found is not None and found.standings[0].name == "free"


def test_weights_are_read() -> None:
    assert parse_weights("quality=.5, latency=2") == {"quality": 0.5, "latency": 2.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quality", "expected NAME=NUMBER"),
        ("qualty=1", "did you mean quality"),
        ("quality=-1", "0 or more"),
        ("quality=nan", "0 or more"),
        ("quality=0", "above 0"),
        ("quality=1,quality=2", "given twice"),
        ("", "expected NAME=NUMBER"),
    ],
)
def test_weights_that_cannot_be_used_are_told(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_weights(text)
    assert any(said in line for line in caught.value.details)
