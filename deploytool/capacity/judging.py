"""Does a measured window show that an SLO holds, that it breaks, or neither?

A condition on a percentile is one on a share: P99 <= 150 ms says that at most 1 % of requests are slower or
fail. Holds and breaks are one-sided binomial tests at 2.5 % each, so that the two together leave 95 %.
Requests of one busy spell are slow together, so counts are divided by their design effect over blocks of
time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deploytool.noise import Requests, at_most, clustering, standard_errors, t_quantile
from deploytool.sizing import Ruling
from deploytool.thresholds import LATENCIES, Threshold

ALPHA = 0.025
RISING = 0.2  # of the limit: a rise of latency over the window that is no steady state
SURE_OF_RISE = 3.0  # standard errors


class Verdict(NamedTuple):
    """`leans`: what was seen is within the SLO, though it may be too little to show that it holds."""

    ruling: Ruling
    why: str
    leans: bool = False


@dataclass
class Tally:
    """Counts of one condition on errors, over several windows."""

    failed: int = 0
    due: int = 0


def judge(windows: Sequence[Requests], slo: Sequence[Threshold], earlier: Tally) -> Verdict:
    """What the windows of one rate say together. `earlier`: errors at lower rates, as more evidence."""
    verdicts = [_one(windows, condition, earlier) for condition in slo]
    for ruling in ("breaks", "undecided"):
        found = [verdict for verdict in verdicts if verdict.ruling == ruling]
        if found:
            leans = all(verdict.leans for verdict in verdicts) and _rising(windows[-1], slo) is None
            return Verdict(found[0].ruling, "; ".join(verdict.why for verdict in found), leans)
    rising = _rising(windows[-1], slo)
    if rising is not None:
        return Verdict("undecided", rising)
    return Verdict("holds", "; ".join(verdict.why for verdict in verdicts), leans=True)


def _one(windows: Sequence[Requests], condition: Threshold, earlier: Tally) -> Verdict:
    name = condition.metric.name
    if name == "errors":
        return _errors(windows, condition, earlier)
    if name == "mean":
        return _mean(windows, condition)
    allowed = 1 - LATENCIES[name] / 100
    over, due, effect = _slow(windows, lambda latency: not condition.passed_by(latency))
    ruling = share_ruling(over / effect, due / effect, allowed)
    why = (
        f"{condition.text}: {over:,} of {due:,} over {condition.amount:g} ms ({100 * allowed:.3g} % allowed)"
    )
    return Verdict(ruling, why, over <= allowed * due)


def share_ruling(count: float, trials: float, allowed: float) -> Ruling:
    """Whether a share is shown to be at most, or more than, what is allowed."""
    if at_most(count, trials, allowed) <= ALPHA:
        return "holds"
    return "breaks" if count > 0 and 1 - at_most(count - 1, trials, allowed) <= ALPHA else "undecided"


def _slow(windows: Sequence[Requests], is_slow: Callable[[float], bool]) -> tuple[int, int, float]:
    """Requests that were slow or failed, all that were due, and the design effect of the slow ones."""
    over: list[float] = []
    totals: list[float] = []
    for window in windows:
        slow, due = [0.0] * window.blocks, [0.0] * window.blocks
        for start, latency in zip(window.start_s, window.latency_ms, strict=True):
            block = window.block_of(start)
            due[block] += 1
            slow[block] += is_slow(latency)
        for start in window.failed_s:
            block = window.block_of(start)
            due[block] += 1
            slow[block] += 1
        over += slow
        totals += due
    return int(sum(over)), int(sum(totals)), clustering(over, totals)


def _errors(windows: Sequence[Requests], condition: Threshold, earlier: Tally) -> Verdict:
    """More errors than allowed break it. Few errors hold it; the `why` says where the sample is small."""
    failed, due, effect = _slow(windows, lambda _: False)
    allowed = condition.amount / 100
    why = f"{condition.text}: {failed:,} of {due:,} requests failed"
    if not allowed or (failed / due if due else 1.0) > allowed:
        if not failed:
            return Verdict("holds", why, leans=True)
        sure = not allowed or share_ruling(failed / effect, due / effect, allowed) == "breaks"
        return Verdict("breaks" if sure else "undecided", why)
    pooled = at_most(failed / effect + earlier.failed, due / effect + earlier.due, allowed)
    if pooled > ALPHA:
        needed = math.ceil(math.log(ALPHA) / math.log1p(-allowed))
        why += f" (to be sure of {condition.amount:g} % takes {needed:,})"
    return Verdict("holds", why, leans=True)


def _mean(windows: Sequence[Requests], condition: Threshold) -> Verdict:
    window = windows[-1]
    if not len(window):
        return Verdict("breaks", f"{condition.text}: no request was answered")
    mean = math.fsum(window.latency_ms) / len(window)
    reach = standard_errors(window, {}).get("mean", math.inf) * t_quantile(1 - ALPHA)
    low, high = mean * math.exp(-reach), mean * math.exp(min(reach, 700.0))
    ruling: Ruling = "undecided"
    if condition.passed_by(high):
        ruling = "holds"
    elif not condition.passed_by(low):
        ruling = "breaks"
    why = f"{condition.text}: {mean:.4g} ms ({low:.4g} to {high:.4g})"
    return Verdict(ruling, why, condition.passed_by(mean))


def _rising(window: Requests, slo: Sequence[Threshold]) -> str | None:
    """That latency was still rising when the window ended, where it was: it would not hold for longer."""
    limits = [condition.amount for condition in slo if condition.unit == "ms"]
    points = [
        (index, math.fsum(block) / len(block))
        for index, block in enumerate(window.latencies_by_block)
        if block
    ]
    if not limits or len(points) < 5:
        return None
    n = len(points)
    centre = sum(index for index, _ in points) / n
    mean = math.fsum(value for _, value in points) / n
    spread = sum((index - centre) ** 2 for index, _ in points)
    slope = math.fsum((index - centre) * (value - mean) for index, value in points) / spread
    left = math.fsum((value - mean - slope * (index - centre)) ** 2 for index, value in points)
    error = math.sqrt(left / (n - 2) / spread)
    rise = slope * window.blocks
    if rise < RISING * min(limits) or slope < SURE_OF_RISE * error:
        return None
    return f"latency was still rising: by {rise:.3g} ms within {window.window_s:.3g} s"
