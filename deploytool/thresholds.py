"""Conditions on figures, as a person writes them on a command line.

    --fail-on "p99>+10%,qps<-5%,vram>+5%"     conditions on a change: metric, comparison, signed amount
    --slo     "p99<=150ms,errors<=0.1%"       conditions on a value: metric, comparison, amount with its unit

A slip is told with its position, what was expected there, and the nearest name.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deploytool.errors import BadInput, nearest

Unit = Literal["%", "ms", "MiB"]
Comparator = Literal[">", ">=", "<", "<="]

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
# Units as written -> (the unit they are kept in, factor)
UNITS: Mapping[str, tuple[Unit, float]] = {
    "%": ("%", 1.0), "ms": ("ms", 1.0), "s": ("ms", 1000.0), "mib": ("MiB", 1.0), "gib": ("MiB", 1024.0),
}  # fmt: skip


class Metric(NamedTuple):
    """One figure of a cell: its name here, its unit, and whether a higher one is worse."""

    name: str
    unit: str
    higher_is_worse: bool
    title: str


LATENCIES: Mapping[str, float] = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("qps", "requests/s", False, "QPS"),
        Metric("texts", "texts/s", False, "texts/s"),
        Metric("tokens", "tokens/s", False, "tokens/s"),
        *(Metric(name, "ms", True, name.upper()) for name in LATENCIES),
        Metric("mean", "ms", True, "mean latency"),
        Metric("errors", "%", True, "errors"),
        Metric("vram", "MiB", True, "VRAM peak"),
        Metric("rss", "MiB", True, "RSS peak"),
    )
}
OTHER_NAMES: Mapping[str, str] = {
    "p999": "p99.9", "error": "errors", "texts_per_s": "texts", "tokens_per_s": "tokens",
    "latency": "mean", "throughput": "qps", "median": "p50",
}  # fmt: skip


@dataclass(frozen=True)
class Threshold:
    """`metric comparator amount`: of a change (relative for "%", else in the unit) or of a value.

    A change of `errors` in "%" is in percentage points: a rate that was nought has no relative change.
    """

    metric: Metric
    comparator: Comparator
    amount: float
    unit: Unit
    text: str

    def passed_by(self, value: float) -> bool:
        """Whether the condition as written is true of `value`, which is in `unit`."""
        return OPERATORS[self.comparator](value, self.amount)


def parse_changes(text: str, option: str = "--fail-on") -> tuple[Threshold, ...]:
    """Conditions on changes. Raises BadInput that points at the first slip."""
    return _Parser(text, option, example="p99>+10%,qps<-5%").conditions(_change)


def parse_slo(text: str, option: str = "--slo") -> tuple[Threshold, ...]:
    """Conditions on latencies and errors, each an upper limit. Raises BadInput that points at the slip."""
    return _Parser(text, option, example="p99<=150ms,errors<=0.1%").conditions(_limit)


class _Parser:
    """A cursor over the text. Spaces may stand anywhere between the parts."""

    def __init__(self, text: str, option: str, example: str) -> None:
        self.text, self.option, self.example = text, option, example
        self.at = 0

    def conditions(self, one: Callable[[_Parser], Threshold]) -> tuple[Threshold, ...]:
        found: list[Threshold] = []
        while True:
            found.append(one(self))
            self.skip()
            if self.at == len(self.text):
                return tuple(found)
            if self.text[self.at] != ",":
                raise self.slip(self.at, "expected a comma or the end")
            self.at += 1

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, pattern: str) -> str:
        """What matches here, or ""."""
        self.skip()
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def metric(self, allowed: Sequence[str]) -> Metric:
        self.skip()
        start = self.at
        word = self.take(r"[A-Za-z_][A-Za-z_0-9]*(?:\.[0-9]+)?").lower()
        if not word:
            raise self.slip(start, f"expected a metric: {', '.join(allowed)}")
        name = OTHER_NAMES.get(word, word)
        if name in allowed:
            return METRICS[name]
        if name in METRICS:
            raise self.slip(start, f"{word} cannot be used here", f"use one of {', '.join(allowed)}")
        near = nearest(word, [*allowed])
        guess = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(allowed)}"
        raise self.slip(start, f"no metric is named {word!r}", guess)

    def comparator(self, allowed: Sequence[Comparator]) -> Comparator:
        self.skip()
        start = self.at
        found = self.take(r"[<>]=?|={1,2}|!=")
        for known in allowed:
            if found == known:
                return known
        raise self.slip(start, f"expected {' or '.join(allowed)}{f', not {found}' if found else ''}")

    def number(self, *, signed: bool) -> float:
        self.skip()
        start = self.at
        found = self.take(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)" if signed else r"(?:\d+(?:\.\d*)?|\.\d+)")
        if not found:
            raise self.slip(start, "expected a number" + (", such as +10 or -5" if signed else ""))
        return float(found)

    def unit(self, allowed: Sequence[Unit]) -> tuple[Unit, float]:
        self.skip()
        start = self.at
        found = self.take(r"%|[A-Za-z]+").lower()
        names = [name for name, (unit, _) in UNITS.items() if unit in allowed]
        if found not in names:
            written = {"mib": "MiB", "gib": "GiB"}
            shown = " or ".join(written.get(name, name) for name in names)
            raise self.slip(start, f"expected the unit {shown}{f', not {found}' if found else ''}")
        return UNITS[found]

    def slip(self, position: int, problem: str, hint: str | None = None) -> BadInput:
        return BadInput(
            f"{self.option}, character {position + 1}: {problem}",
            details=[self.text, " " * position + "^"],
            hint=hint or f'for example {self.option} "{self.example}"',
        )


def _change(parser: _Parser) -> Threshold:
    parser.skip()
    start = parser.at
    metric = parser.metric(tuple(METRICS))
    comparator = parser.comparator((">", ">=", "<", "<="))
    amount = parser.number(signed=True)
    absolute: dict[str, Unit] = {"ms": "ms", "MiB": "MiB"}
    allowed: tuple[Unit, ...] = ("%", absolute[metric.unit]) if metric.unit in absolute else ("%",)
    unit, factor = parser.unit(allowed)
    return Threshold(metric, comparator, amount * factor, unit, parser.text[start : parser.at].strip())


def _limit(parser: _Parser) -> Threshold:
    parser.skip()
    start = parser.at
    metric = parser.metric((*LATENCIES, "mean", "errors"))
    comparator = parser.comparator(("<=", "<"))
    place = parser.at
    amount = parser.number(signed=False)
    unit, factor = parser.unit(("%",) if metric.unit == "%" else ("ms",))
    if unit == "%" and amount >= 100:
        raise parser.slip(place, "expected less than 100 %")
    if unit == "ms" and amount <= 0:
        raise parser.slip(place, "expected more than 0")
    return Threshold(metric, comparator, amount * factor, unit, parser.text[start : parser.at].strip())
