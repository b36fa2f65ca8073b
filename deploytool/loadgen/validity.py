"""Whether a cell's figures can be believed.

void: the figures are of something else than the target, or useless - the load generator was the limit, the
schedule was not kept, the server was another one at the end. suspect: read with care; the reasons say why.
The limits are of the load generator's own: CPU, the lag of its loop, the ceiling it reaches at a server that
only sends bytes.
"""

from __future__ import annotations

from deploytool.loadgen.measured import DROPPED, Samples
from deploytool.records import Cell, PhaseMemory, Validity
from deploytool.statistics import interval, percentile

CPU_MOST_PERCENT = 80.0
LAG_SUSPECT_P50, LAG_VOID_P50, LAG_VOID_TAIL = 0.02, 0.1, 0.5
LAG_LEAST_MS = 0.5  # the accuracy that is aimed at: below it a lag is no matter
LAG_LEAST_S = 2.0  # of window: 100 probes, from which on their P99 is not their highest by definition
SENT_LEAST_SHARE = 0.98
ANSWERED_LEAST_SHARE = 0.98
CEILING_MOST_SHARE = 0.5
SAMPLES_LEAST = 72  # from which on P95 has a confidence interval
DRIFT_MOST_SHARE = 0.1
MEMORY_GAP_MOST_MS = 2000.0
CLOCK_MOVED_MOST_MS = 5.0
CLOCK_UNCERTAIN_SHARE = 0.01  # of the window


def judge(
    cell: Cell,
    samples: Samples,
    window: tuple[int, int] | None,
    memory: PhaseMemory,
    restarted: str | None,
) -> Validity:
    """The verdict on a finished cell, with every reason."""
    void = [restarted] if restarted else []
    void += _workers(cell) + _client(cell) + _schedule(cell)
    late, suspect = _lag(cell)
    void += late
    suspect += _clocks(cell)
    suspect += _load_kept_up(cell)
    if cell.requests < SAMPLES_LEAST:
        suspect.append(
            f"{cell.requests} successful requests: from {SAMPLES_LEAST} on P95 has a confidence interval"
        )
    if window is not None:
        suspect += _drift(samples, window)
    if memory.gap_max_ms is not None and memory.gap_max_ms > MEMORY_GAP_MOST_MS:
        suspect.append(f"no memory reading for {memory.gap_max_ms / 1000:.1f} s: a peak may be missed")
    if cell.answers is not None and cell.answers.wrong:
        void.append(f"{cell.answers.wrong} of {cell.answers.answers} checked answers were wrong")
    return Validity(verdict="void" if void else "suspect" if suspect else "valid", reasons=void + suspect)


def _workers(cell: Cell) -> list[str]:
    """Load from several hosts: who was lost, with what share, and whose clock was set meanwhile."""
    share = 100 / max(1, len(cell.client))
    reasons = [
        f"the worker {one.host} was lost ({one.lost}): {share:.0f} % of the load was missing from then on"
        for one in cell.client
        if one.lost
    ]
    return reasons + [
        f"the clock of the worker {one.host} moved by {one.clock_moved_ms:,.0f} ms against the master's"
        for one in cell.client
        if (one.clock_moved_ms or 0) > CLOCK_MOVED_MOST_MS
    ]


def _clocks(cell: Cell) -> list[str]:
    """A window whose edges are not the same on all hosts counts requests that were made in another load."""
    most = max((one.clock_uncertain_ms or 0 for one in cell.client), default=0.0)
    if most <= CLOCK_UNCERTAIN_SHARE * 1000 * cell.duration_s:
        return []
    return [f"the workers' clocks are only known to {most:.3g} ms: the network to them is slow"]


def _client(cell: Cell) -> list[str]:
    reasons = []
    cpu = cell.client_cpu_percent
    if cpu is not None and cpu > CPU_MOST_PERCENT:
        reasons.append(
            f"the load generator used {cpu:.0f} % of a core (limit {CPU_MOST_PERCENT:.0f} %): "
            "give it more with --processes"
        )
    if cell.null is not None and cell.qps > CEILING_MOST_SHARE * cell.null.ceiling_qps:
        reasons.append(
            f"{cell.qps:,.0f} QPS is more than half of the {cell.null.ceiling_qps:,.0f} that the load "
            "generator reaches at a server that only sends bytes"
        )
    return reasons


def _schedule(cell: Cell) -> list[str]:
    """Open loop: whether what was due was sent; what was dropped was seen, and is no fault of the clock."""
    if cell.sent_rate is None or not cell.due_rate:
        return []
    share = cell.sent_rate / cell.due_rate
    if share >= SENT_LEAST_SHARE:
        return []
    return [
        f"only {100 * share:.1f} % of the requests that were due were sent, {cell.dropped:,} were dropped: "
        f"all {cell.concurrency} connections were in use"
    ]


def _lag(cell: Cell) -> tuple[list[str], list[str]]:
    """Reasons for void and for suspect. A latency is too high by the lag of the moment in which it ended.

    Unless the kernel told when that was. Then a closed loop's latencies are right, and only its clients are
    slow to ask again: less load than was said, where that takes long beside a request.

    Else P50 is off by about the lag's P50, and a tail by its P99 at most: void where a tenth of P50, or half of
    the tail, may be the load generator's own; suspect where the lag's P99 is beyond 2 % of P50.
    """
    p50, p99 = (_highest(cell, name) for name in ("lag_p50_ms", "lag_p99_ms"))
    latency = cell.latency_ms
    tail = latency.p99 or latency.p95 or latency.p90 or latency.max
    if p50 is None or p99 is None or not latency.p50 or not tail or cell.duration_s < LAG_LEAST_S:
        return [], []
    share = 100 * p99 / latency.p50
    said = f"the load generator's loop was late by {_two(p50)} ms at P50 and {_two(p99)} ms at P99"
    if cell.mode == "closed" and all(process.arrivals_told for process in cell.client):
        pause = f"{said}: its clients asked again later than they should; it shares its cores with others"
        if p50 > max(LAG_LEAST_MS, LAG_VOID_P50 * latency.p50):
            return [pause], []
        return [], [pause] if p50 > max(LAG_LEAST_MS, LAG_SUSPECT_P50 * latency.p50) else []
    if p50 > max(LAG_LEAST_MS, LAG_VOID_P50 * latency.p50) or p99 > max(LAG_LEAST_MS, LAG_VOID_TAIL * tail):
        return [f"{said}: much of the latencies may be its own; it shares its cores with others"], []
    if p99 > max(LAG_LEAST_MS, LAG_SUSPECT_P50 * latency.p50):
        return [], [f"{said}, {share:.0f} % of the latencies' P50: it shares its cores with others"]
    return [], []


def _two(value: float) -> str:
    """Two significant digits, and never an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _highest(cell: Cell, name: str) -> float | None:
    values = [value for process in cell.client if (value := getattr(process, name)) is not None]
    return max(values, default=None)


def _load_kept_up(cell: Cell) -> list[str]:
    """Open loop: a server that answers fewer than are due has a queue that grows as long as one measures."""
    if not cell.due_rate:
        return []
    share = cell.qps / cell.due_rate
    if share >= ANSWERED_LEAST_SHARE:
        return []
    return [f"{100 * share:.1f} % of the requests that were due were answered with success"]


def _drift(samples: Samples, window: tuple[int, int]) -> list[str]:
    """Whether the last third of the window differs from the first, beyond chance."""
    third = (window[1] - window[0]) // 3
    parts: list[list[float]] = [[], []]
    for start, latency, error in zip(samples.start_ns, samples.latency_ns, samples.error, strict=True):
        if error and error != DROPPED:
            continue
        if not error and window[0] <= start < window[0] + third:
            parts[0].append(latency / 1e6)
        elif not error and window[1] - third <= start < window[1]:
            parts[1].append(latency / 1e6)
    first, last = sorted(parts[0]), sorted(parts[1])
    between = interval(first, 50), interval(last, 50)
    if between[0] is None or between[1] is None:
        return []
    was, now = percentile(first, 50), percentile(last, 50)
    apart = between[0][1] < between[1][0] or between[1][1] < between[0][0]
    if not apart or abs(now - was) <= DRIFT_MOST_SHARE * was:
        return []
    return [f"P50 drifted within the window: {was:.3g} ms in its first third, {now:.3g} ms in its last"]
