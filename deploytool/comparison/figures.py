"""One figure of one cell on both sides, with the interval of its change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from deploytool.compared import Figure, Verdict
from deploytool.comparison.sides import Key, Measured
from deploytool.noise import error_spread, pooled, standard_errors, t_quantile
from deploytool.records import Cell
from deploytool.statistics import samples_for_interval
from deploytool.thresholds import LATENCIES, METRICS, Metric

SHOWN = ("qps", "tokens", *LATENCIES, "errors", "vram", "rss")
TWO_SIDED_95 = 1.959964


def value_of(cell: Cell, metric: Metric) -> float | None:
    """A cell's figure; errors in percent of all requests."""
    if metric.name in LATENCIES or metric.name == "mean":
        value: float | None = getattr(cell.latency_ms, metric.name.replace(".", ""))
        return value
    if metric.name == "errors":
        failed = sum(cell.errors.values())
        return 100 * failed / (failed + cell.requests) if failed + cell.requests else None
    names = {"qps": "qps", "texts": "texts_per_s", "tokens": "tokens_per_s", "vram": "vram_peak_mib",
             "rss": "rss_peak_mib"}  # fmt: skip
    found: float | None = getattr(cell, names[metric.name])
    return found


def metrics_of(before: Sequence[Cell], after: Sequence[Cell]) -> list[Metric]:
    """The figures that a cell's comparison shows: those that either side has."""
    cells = (*before, *after)
    return [
        METRICS[name] for name in SHOWN if any(value_of(cell, METRICS[name]) is not None for cell in cells)
    ]


class Judge:
    """Knows the noise: within the runs from their raw samples, between runs from repeats, else assumed."""

    def __init__(
        self,
        baseline: Measured,
        current: Measured,
        shared: Sequence[Key],
        between_percent: float,
        least_freedom: int,
    ) -> None:
        self.baseline, self.current = baseline, current
        self.assumed = math.log1p(between_percent / 100) / TWO_SIDED_95
        self.between_percent, self.least_freedom = between_percent, least_freedom
        self.groups = [side.cells[key] for key in shared for side in (baseline, current)]
        self._pools: dict[str, tuple[float, int]] = {}
        self._within: dict[tuple[int, Key], dict[str, float]] = {}

    @property
    def repeated(self) -> bool:
        return sum(len(group) - 1 for group in self.groups) >= self.least_freedom

    @property
    def noise(self) -> str:
        """Where the noise is from, in a sentence."""
        if self.repeated:
            freedom = sum(len(group) - 1 for group in self.groups)
            return f"the spread of repeats ({freedom} degrees of freedom, pooled over the cells)"
        assumed = f"between runs {self.between_percent:g} % is assumed"
        return f"within each run by block bootstrap over time; {assumed}"

    def pool(self, metric: Metric) -> tuple[float, int]:
        """Spread of the repeats' logarithm and its degrees of freedom."""
        if metric.name not in self._pools:
            values = [[value for cell in group if (value := value_of(cell, metric))] for group in self.groups]
            self._pools[metric.name] = pooled(values)
        return self._pools[metric.name]

    def within(self, side: Measured, key: Key) -> dict[str, float]:
        """Standard errors of one cell's figures from its raw samples; empty where there are none."""
        place = (id(side), key)
        if place not in self._within:
            requests = side.requests.get(key)
            self._within[place] = standard_errors(requests, LATENCIES) if requests else {}
        return self._within[place]

    def figure(self, metric: Metric, key: Key, each: float) -> Figure:
        before = [value_of(cell, metric) for cell in self.baseline.cells[key]]
        after = [value_of(cell, metric) for cell in self.current.cells[key]]
        was, now = _centre(before, metric), _centre(after, metric)
        figure = Figure(metric=metric.name, title=metric.title, unit=metric.unit, baseline=was, current=now)
        if was is None or now is None:
            side = "baseline" if was is None else "other run"
            return figure.model_copy(update={"reason": f"the {side} has none{_why_none(metric)}"})
        if metric.name == "errors":
            return self._errors(figure, now - was, key, each)
        if was <= 0 or now <= 0:
            return figure.model_copy(update={"reason": "there is no relative change of nought"})
        change, reach = math.log(now / was), self._reach(metric, key, each)
        low, high = change - reach, change + reach
        return figure.model_copy(
            update={
                "change": 100 * math.expm1(change),
                "low": 100 * math.expm1(low),
                "high": 100 * math.expm1(high),
                **_told(low, high, metric),
            }
        )

    def _reach(self, metric: Metric, key: Key, each: float) -> float:
        """Half the width of the interval of a change, as a logarithm."""
        spread, freedom = self.pool(metric)
        if freedom >= self.least_freedom:
            counts = (len(side.cells[key]) for side in (self.baseline, self.current))
            return (
                spread * math.sqrt(sum(1 / count for count in counts)) * t_quantile((1 + each) / 2, freedom)
            )
        name = "qps" if metric.name in ("tokens", "texts") else metric.name  # as many for each request
        within = [self.within(side, key).get(name, 0.0) for side in (self.baseline, self.current)]
        return math.hypot(*within, self.assumed) * t_quantile((1 + each) / 2)

    def _errors(self, figure: Figure, change: float, key: Key, each: float) -> Figure:
        """Shares of failed requests: their difference in percentage points."""
        spreads = [_error_spread(side, key) for side in (self.baseline, self.current)]
        reach = 100 * math.hypot(*spreads) * t_quantile((1 + each) / 2)
        told = _told(change - reach, change + reach, METRICS["errors"])
        return figure.model_copy(
            update={"change": change, "change_unit": "points", "low": change - reach, "high": change + reach}
            | told
        )


def _error_spread(side: Measured, key: Key) -> float:
    """Standard error of a cell's share of errors; from counts alone where there are no raw samples."""
    requests = side.requests.get(key)
    if requests is not None:
        return error_spread(requests)[1]
    failed = sum(sum(cell.errors.values()) for cell in side.cells[key])
    whole = failed + sum(cell.requests for cell in side.cells[key])
    share = (failed + 1) / (whole + 2)
    return math.sqrt(share * (1 - share) / (whole + 2))


def _centre(values: Sequence[float | None], metric: Metric) -> float | None:
    """The mean of repeats: of rates and latencies the geometric one. None where one of them has none."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if metric.name == "errors" or min(known) <= 0 or len(known) == 1:
        return math.fsum(known) / len(known)
    return math.exp(math.fsum(map(math.log, known)) / len(known))


def _why_none(metric: Metric) -> str:
    percent = LATENCIES.get(metric.name)
    return f": it needs {samples_for_interval(percent):,} samples" if percent else ""


def _told(low: float, high: float, metric: Metric) -> dict[str, bool | Verdict]:
    if low <= 0 <= high:
        return {"beyond_noise": False, "verdict": "same"}
    verdict: Literal["better", "worse"] = "worse" if (low > 0) == metric.higher_is_worse else "better"
    return {"beyond_noise": True, "verdict": verdict}
