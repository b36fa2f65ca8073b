"""Conditions as a person writes them, and what is said of a slip."""

from __future__ import annotations

import pytest

from deploytool.errors import BadInput
from deploytool.thresholds import parse_changes, parse_slo


def test_conditions_on_changes() -> None:
    found = parse_changes(" P99 > +10% ,qps<-5%,vram>=+1.5GiB,p999>+.2s,errors > 0.5 %")
    assert [(one.metric.name, one.comparator, one.amount, one.unit) for one in found] == [
        ("p99", ">", 10.0, "%"),
        ("qps", "<", -5.0, "%"),
        ("vram", ">=", 1536.0, "MiB"),
        ("p99.9", ">", 200.0, "ms"),
        ("errors", ">", 0.5, "%"),
    ]
    assert found[0].text == "P99 > +10%"
    assert found[1].passed_by(-5.1)
    assert not found[1].passed_by(-5.0)
    assert found[2].passed_by(1536.0)


def test_conditions_on_values() -> None:
    found = parse_slo("p99<=150ms,mean<0.02s,errors<=0.1%")
    assert [(one.metric.name, one.comparator, one.amount, one.unit) for one in found] == [
        ("p99", "<=", 150.0, "ms"),
        ("mean", "<", 20.0, "ms"),
        ("errors", "<=", 0.1, "%"),
    ]


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("p99>+10%,qsp<-5%", 10, "no metric is named 'qsp'"),
        ("p99=10%", 4, "expected > or >= or < or <=, not ="),
        ("p99>ten", 5, "expected a number, such as +10 or -5"),
        ("p99>+10", 8, "expected the unit % or ms or s"),
        ("qps>10ms", 7, "expected the unit %, not ms"),
        ("p99>10%;qps<-5%", 8, "expected a comma or the end"),
        ("p99>10%,", 9, "expected a metric"),
        ("", 1, "expected a metric"),
        ("p99>10%%", 8, "expected a comma or the end"),
    ],
)
def test_a_slip_in_a_change_is_pointed_at(text: str, column: int, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_changes(text)
    assert f"--fail-on, character {column}: " in caught.value.message
    assert said in caught.value.message
    assert caught.value.details == (text, " " * (column - 1) + "^")
    assert caught.value.hint


def test_the_nearest_metric_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        parse_changes("qsp<-5%")
    assert caught.value.hint == "did you mean qps?"


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("qps<=3%", 1, "qps cannot be used here"),
        ("p99<=150", 9, "expected the unit ms or s"),
        ("p99>=3ms", 4, "expected <= or <, not >="),
        ("p99<=0ms", 6, "expected more than 0"),
        ("p99<=-3ms", 6, "expected a number"),
        ("errors<=100%", 9, "expected less than 100 %"),
    ],
)
def test_a_slip_in_an_slo_is_pointed_at(text: str, column: int, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_slo(text)
    assert f"--slo, character {column}: " in caught.value.message
    assert said in caught.value.message
