"""The search: double until the SLO breaks, bisect, confirm. Knows rates and verdicts, no network.

What it says is what was shown: `max_qps` is a rate at which the SLO held in a confirming window of its own,
`high` one at which it broke. Where time, the client or the answers did not allow that, the result says "at
least", or that nothing holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from deploytool.capacity.judging import Tally, Verdict, judge
from deploytool.noise import Requests
from deploytool.records import Cell
from deploytool.sizing import Found, Probe
from deploytool.statistics import samples_for_interval
from deploytool.thresholds import LATENCIES, Threshold

Step = Literal["double", "bisect", "confirm"]

LEAST_S: dict[Step, float] = {"double": 1.5, "bisect": 2.0, "confirm": 3.0}
MOST_S = 60.0
# Requests in a window of each step, in those that the strictest percentile needs for an interval (368 for
# P99): few to find the range, more as the bracket narrows. And never fewer than so many.
# A rate far from the limit is ruled on at the first look, one near it takes them all.
LOOKS: dict[Step, tuple[float, ...]] = {"double": (0.4, 0.4), "bisect": (1, 3), "confirm": (8, 8, 8)}
LEAST_SAMPLES: dict[Step, int] = {"double": 60, "bisect": 200, "confirm": 400}
MOST_VOID = 3  # windows in a row that the client spoilt
MOST_CONFIRMATIONS = 6
MOST_HALVINGS = 6
REACH = math.sqrt(2)  # how far above a rate the search goes on whose upper bound was a disturbance
FALLBACK = 1.5  # requests of the last window, in those that an interval needs
MOST_KEPT = 1 / 3  # of the time, for that window
SLACK_S = 0.2  # between two looks at the clock


class Observation(NamedTuple):
    """One window at one rate. `void`: why it says nothing of the target; `gone`: why there is no target."""

    requests: Requests
    cell: Cell
    void: str | None = None
    gone: str | None = None


class Measure(Protocol):
    """Measures one rate (requests/s, open loop) over a window of `duration_s`."""

    def __call__(self, rate: float, duration_s: float) -> Observation: ...


UNKNOWN = Verdict("undecided", "not measured")


class _Ended(Exception):
    """The search can go no further; its text says why."""


class _TimeOver(_Ended):
    """No window of the size that is needed fits the time that is left."""


@dataclass
class _Rate:
    """What is known of one rate."""

    windows: list[Requests] = field(default_factory=list)
    verdict: Verdict = UNKNOWN
    last_step: Step = "double"


@dataclass
class Search:
    """One search. `seconds_left` is asked before each window; `overhead_s` is what a window costs beside."""

    measure: Measure
    slo: Sequence[Threshold]
    seconds_left: Callable[[], float]
    precision: float = 0.04
    most_qps: float | None = None
    warmup_s: float = 1.0
    overhead_s: float = 4.0
    told: Callable[[Probe], None] = lambda _: None
    probes: list[Probe] = field(default_factory=list)
    rates: dict[float, _Rate] = field(default_factory=dict)
    low: float = 0.0  # highest rate that holds
    high: float | None = None  # lowest rate that was not shown to hold
    confirmed: float | None = None
    stopped: str = ""
    gone: bool = False
    given_s: float = 0.0

    def run(self, start: float) -> Found:
        """Search from `start` requests/s. Ends by itself; what was found until then is in the result."""
        self.given_s = self.seconds_left()
        try:
            try:
                self._double(start)
                self._bisect()
                self._confirm()
            except _TimeOver:
                self._fall_back()
                raise
        except _Ended as end:
            self.stopped = str(end)
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        return self._found()

    def _double(self, start: float) -> None:
        rate = start
        while self.high is None:
            if self.most_qps is not None and rate >= self.most_qps:
                rate = self.most_qps
            if self._holds(rate, "double"):
                if rate == self.most_qps:
                    return
                rate = self._round(rate * 2)
        for _ in range(MOST_HALVINGS):
            if self.low:
                return
            self._holds(self._round((self.high or start) / 2), "double")
        raise _Ended("the SLO breaks at every rate that was tried")

    def _bisect(self) -> None:
        """Narrow the bracket; its lower end must hold in more than a window of the doubling."""
        while self.low:
            if self.high is None:
                if self.low == self.most_qps:
                    return
                self._double(self._round(self.low * REACH))
                continue
            if self.high / self.low > 1 + self.precision:
                middle = self._round(math.sqrt(self.low * self.high))
                if self.low < middle < self.high:
                    self._holds(middle, "bisect")
                    if self.low and self.high / self.low <= 1 + self.precision:
                        self._second_opinion()
                    continue
            if self.rates[self.low].last_step != "double":
                return
            self._holds(self.low, "bisect")

    def _second_opinion(self) -> None:
        """Measure the rate that bounds the result once more, alone: a disturbance breaks an SLO, too."""
        rate = self.high
        if rate is None or len(self.rates[rate].windows) > 1:
            return
        self.rates[rate].windows.clear()
        self.high = min((one for one in self.rates if one > rate and not self._held(one)), default=None)
        self._holds(rate, "bisect")

    def _confirm(self) -> None:
        """A longer window at the rate found; where it does not hold there, the bracket is narrowed anew below it."""
        for _ in range(MOST_CONFIRMATIONS):
            rate = self.low
            if not rate:
                raise _Ended("no rate was confirmed to hold the SLO")
            if self._holds(rate, "confirm"):
                self.confirmed = rate
                self.stopped = "converged"
                if self.high is None:
                    self.stopped = f"the SLO holds at {rate:g}/s, the highest rate that was to be tried"
                return
            self._bisect()
        raise _Ended(f"not confirmed at {MOST_CONFIRMATIONS} rates")

    def _fall_back(self) -> None:
        """Where nothing was shown to hold: the time that was kept, well below what did not."""
        rate = self.low if self.high is None else self._round(self._rate_below(self.high))
        if not rate or self._is_shown():
            return
        seconds = min(MOST_S, self.seconds_left() - self.warmup_s - self.overhead_s - SLACK_S)
        if seconds >= LEAST_S["double"]:
            self._measure(rate, "bisect", self.rates.setdefault(rate, _Rate()), 0, seconds)

    def _rate_below(self, rate: float) -> float:
        return rate / REACH if self.low else rate / 2

    def _kept_s(self, rate: float) -> float:
        """What a window at `rate` has to leave of the time; it may take back what this rate had shown."""
        if self.high is None or self._is_shown(but=rate):
            return 0.0
        below = self._rate_below(min(rate, self.high))
        seconds = max(LEAST_S["double"], FALLBACK * _needed(self.slo) / below)
        return min(seconds + self.warmup_s + self.overhead_s, MOST_KEPT * self.given_s)

    def _is_shown(self, but: float | None = None) -> bool:
        below = self.high or math.inf
        held = (rate for rate, known in self.rates.items() if known.verdict.ruling == "holds")
        return any(rate < below and rate != but for rate in held)

    def _holds(self, rate: float, step: Step) -> bool:
        """Measure until the rate is ruled on or was looked at enough; moves `low` or `high`."""
        known = self.rates.setdefault(rate, _Rate())
        known.last_step = step
        for look in range(len(LOOKS[step])):
            self._look(rate, step, known, look)
            leans = known.verdict.leans
            if known.verdict.ruling != "undecided" or (leans if step == "double" else not leans):
                break
        holds = known.verdict.ruling == "holds" or (step != "confirm" and self._held(rate))
        if holds:
            self.low = max(self.low, rate)
        else:
            self.high = min(rate, self.high or math.inf)
            self.low = max((one for one in self.rates if one < self.high and self._held(one)), default=0.0)
        return holds

    def _held(self, rate: float) -> bool:
        """Where too few requests were seen to rule, what they lean to; a full sample that does not show it is no."""
        known = self.rates[rate]
        seen = sum(len(window) + len(window.failed_s) for window in known.windows)
        leans = known.verdict.leans and seen < samples_of("confirm", self.slo)
        return known.verdict.ruling == "holds" or leans

    def _look(self, rate: float, step: Step, known: _Rate, look: int) -> None:
        """One more window at a rate, of the size that its step is to have."""
        seconds = min(MOST_S, max(LEAST_S[step], samples_of(step, self.slo, look) / rate))
        self._measure(rate, step, known, look, seconds, self._kept_s(rate))

    def _measure(
        self, rate: float, step: Step, known: _Rate, look: int, seconds: float, kept_s: float = 0.0
    ) -> None:
        """A window of `seconds`, which leaves `kept_s` of the time.

        A client that lags makes latencies longer, never shorter: what holds in spite of it, holds. What does
        not is measured again, as a busy neighbour may be gone by then.
        """
        for _ in range(MOST_VOID):
            if self.seconds_left() < seconds + self.warmup_s + self.overhead_s + kept_s:
                raise _TimeOver("the time was over")
            seen = self.measure(rate, seconds)
            if seen.gone is not None:
                self.gone = True
                raise _Ended(f"the target is gone: {seen.gone}")
            # Confirming windows stand by themselves: those before chose this rate, and luck helped them.
            earlier = known.windows[len(known.windows) - look :] if step == "confirm" else known.windows
            verdict = judge([*earlier, seen.requests], self.slo, self._errors_below(rate))
            if seen.void is None or verdict.leans:
                known.windows.append(seen.requests)
                known.verdict = verdict
                self._tell(rate, step, seen, verdict)
                return
            self._tell(rate, step, seen, Verdict("void", seen.void))
        raise _Ended(f"the measurement was at fault at {rate:g}/s: {seen.void}")

    def _errors_below(self, rate: float) -> Tally:
        tally = Tally()
        for other, known in self.rates.items():
            if other < rate:
                tally.failed += sum(len(window.failed_s) for window in known.windows)
                tally.due += sum(len(window) + len(window.failed_s) for window in known.windows)
        return tally

    def _tell(self, rate: float, step: Step, seen: Observation, verdict: Verdict) -> None:
        cell, requests = seen.cell, seen.requests
        probe = Probe(
            rate=rate,
            step=step,
            ruling=verdict.ruling,
            why=verdict.why,
            due=len(requests) + len(requests.failed_s),
            errors=cell.errors,
            duration_s=cell.duration_s,
            served_per_s=served_in_window(requests),
            p50_ms=cell.latency_ms.p50,
            p99_ms=cell.latency_ms.p99,
            tokens_per_s=cell.tokens_per_s,
            vram_peak_mib=cell.vram_peak_mib,
            rss_peak_mib=cell.rss_peak_mib,
            gpu_utilisation_percent=cell.gpu_utilisation_percent,
            client_cpu_percent=cell.client_cpu_percent,
        )
        self.probes.append(probe)
        self.told(probe)

    def _round(self, rate: float) -> float:
        """Four digits: a rate that a person can type again."""
        return float(f"{rate:.4g}")

    def _found(self) -> Found:
        broken = [rate for rate, known in self.rates.items() if known.verdict.ruling == "breaks"]
        shown = [rate for rate, known in self.rates.items() if known.verdict.ruling == "holds"]
        bounded = [rate for rate in shown if self.high is None or rate < self.high]
        best = self.confirmed if self.confirmed is not None else max(bounded, default=0.0)
        at_best = [probe for probe in self.probes if probe.rate == best and probe.p99_ms is not None]
        narrow = self.high is not None and bool(best) and self.high / best <= (1 + self.precision) ** 2
        return Found(
            max_qps=best,
            low=self.confirmed,
            high=min((rate for rate in broken if rate > best), default=self.high),
            p99_ms=at_best[-1].p99_ms if at_best else None,
            converged=self.confirmed is not None and narrow,
            reason=self.stopped,
            gone=self.gone,
            probes=tuple(self.probes),
        )


def samples_of(step: Step, slo: Sequence[Threshold], look: int = 0) -> int:
    """How many requests a window of a step is to have."""
    return max(LEAST_SAMPLES[step], math.ceil(LOOKS[step][look] * _needed(slo)))


def _needed(slo: Sequence[Threshold]) -> int:
    """How many requests the strictest percentile takes for an interval."""
    percents = [LATENCIES[one.metric.name] for one in slo if one.metric.name in LATENCIES]
    return samples_for_interval(max(percents, default=95.0))


def served_in_window(requests: Requests) -> float:
    """Answers a second that were complete before the window ended: a growing backlog is not throughput."""
    if not requests.window_s:
        return 0.0
    end = requests.opened_s + requests.window_s
    pairs = [*zip(requests.start_s, requests.latency_ms, strict=True), *requests.beside]
    inside = sum(requests.opened_s <= start + latency / 1000 < end for start, latency in pairs)
    return inside / requests.window_s
