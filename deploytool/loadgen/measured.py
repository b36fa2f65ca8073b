"""From a child's samples file to rows and figures of one cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from deploytool.loadgen.plan import CellPlan, Outcome
from deploytool.records import Cell, Latency, PhaseMemory, cell_name
from deploytool.statistics import Summary, adjusted, summarise

__all__ = ["Samples", "answered_share", "cell_name", "cell_of", "phase_of", "read_samples"]

COARSE = 10  # requests per client in a window, below which counting them makes a coarse QPS
COARSE_NOTE = (
    f"fewer than {COARSE} requests per client: QPS counts each answer by the share of its time in the window"
)
FIELDS = 7
DROPPED = "dropped"


@dataclass
class Samples:
    """Request events by column, process by process in the order in which they ended.

    `error` "" is a success; `tokens` -1 unknown. In an open loop `start_ns` is when a request was due, and
    `service_ns` counts from when it was sent; in a closed loop that is the same, and -1.
    """

    start_ns: list[int] = field(default_factory=list)
    latency_ns: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    error: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    response_bytes: list[int] = field(default_factory=list)
    service_ns: list[int] = field(default_factory=list)
    worker: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start_ns)

    def rows(self, plan: CellPlan, window: tuple[int, int] | None) -> Iterator[dict[str, Any]]:
        """As stored, with the columns of `samples.REQUESTS`."""
        columns = (
            self.start_ns, self.latency_ns, self.status, self.error, self.tokens, self.response_bytes,
            self.service_ns, self.worker,
        )  # fmt: skip
        for start, latency, status, error, tokens, size, service, worker in zip(*columns, strict=True):
            yield {
                "cell": plan.name,
                "phase": phase_of(start, window),
                "worker": str(worker),
                "start_ns": start,
                "latency_ns": latency,
                "service_ns": service if service >= 0 else None,
                "status": status,
                "error": error or None,
                "texts": plan.batch,
                "tokens": tokens if tokens >= 0 else None,
                "response_bytes": size,
            }


def phase_of(start_ns: int, window: tuple[int, int] | None) -> str:
    """warmup, measure or after: by the time at which a request started."""
    if window is None or start_ns < window[0]:
        return "warmup"
    return "measure" if start_ns < window[1] else "after"


def read_samples(paths: Iterable[Path]) -> Samples:
    """The whole lines of the processes' files; a killed process may have left half a line at its end."""
    found = Samples()
    for worker, path in enumerate(paths):
        if path.exists():
            _read(path, worker, found)
    return found


def _read(path: Path, worker: int, found: Samples) -> None:
    with path.open(encoding="ascii", errors="replace") as file:
        next(file, None)
        for line in file:
            words = line.rstrip("\n").split(",")
            if not line.endswith("\n") or len(words) != FIELDS:
                break
            found.start_ns.append(int(words[0]))
            found.latency_ns.append(int(words[1]))
            found.status.append(int(words[2]))
            found.error.append(words[3])
            found.tokens.append(int(words[4]) if words[4] else -1)
            found.response_bytes.append(int(words[5]))
            found.service_ns.append(int(words[6]) if words[6] else -1)
            found.worker.append(worker)


def cell_of(plan: CellPlan, outcome: Outcome, samples: Samples, memory: PhaseMemory) -> Cell:
    """The figures of one cell.

    Nothing succeeded: no latency, and the reason; unknown memory: None, never 0.
    """
    window = outcome.window or (0, 0)
    inside = [i for i, start in enumerate(samples.start_ns) if window[0] <= start < window[1]]
    good = [i for i in inside if not samples.error[i]]
    errors = Counter(samples.error[i] for i in inside if samples.error[i])
    seconds = (window[1] - window[0]) / 1e9
    latencies = [samples.latency_ns[i] / 1e6 for i in good]
    summary = summarise(latencies)
    state, reason = outcome.state, outcome.reason
    if not good and state == "done":
        state, reason = "failed", _nothing(errors)
    tokens, notes = _tokens(samples, good)
    notes += summary.notes
    qps = len(good) / seconds if seconds else 0.0
    if plan.rate is None and good and len(good) < COARSE * plan.concurrency:
        qps = answered_share(samples, window) / seconds
        notes.append(COARSE_NOTE)
    return Cell(
        batch=plan.batch,
        concurrency=plan.concurrency,
        state=state,
        reason=reason,
        requests=len(good),
        errors=dict(sorted(errors.items())),
        duration_s=round(seconds, 6),
        qps=qps,
        texts_per_s=qps * plan.batch,
        tokens_per_s=None if tokens is None else qps * tokens,
        latency_ms=_latency(summary),
        latency_ci95_ms=summary.intervals,
        latency_missing=summary.missing,
        adjusted_ms=adjusted(latencies, len(inside) - len(good)) if inside else {},
        vram_peak_mib=memory.vram_peak_mib,
        vram_reason=memory.vram_reason,
        rss_peak_mib=memory.rss_peak_mib,
        gpu_utilisation_percent=memory.utilisation_percent,
        power_peak_w=memory.power_peak_w,
        response_bytes=median_low(samples.response_bytes[i] for i in good) if good else None,
        client_cpu_percent=max((part.cpu_percent or 0.0 for part in outcome.client), default=None),
        client=list(outcome.client),
        null=outcome.null,
        notes=notes,
        **(_open_loop(plan, samples, inside, good, seconds) if plan.rate is not None else {}),
    )


def _open_loop(
    plan: CellPlan, samples: Samples, inside: list[int], good: list[int], seconds: float
) -> dict[str, Any]:
    """What only an open loop has: the arrivals as asked for, as due and as sent, and the service time."""
    sent = sum(samples.error[i] != DROPPED for i in inside)
    return {
        "mode": "open",
        "rate": plan.rate,
        "arrivals": plan.arrivals,
        "dropped": len(inside) - sent,
        "service_ms": _latency(summarise([samples.service_ns[i] / 1e6 for i in good])),
        "sent_rate": sent / seconds if seconds else None,
        "due_rate": len(inside) / seconds if seconds else None,
    }


def _latency(summary: Summary) -> Latency:
    return Latency.model_validate(summary.figures)


def answered_share(samples: Samples, window: tuple[int, int]) -> float:
    """Answers given within the window, each counted by the share of its own time that lies in it.

    In a closed loop with N clients and latency L this is N / L times the window's length however few requests
    there are, where a count of starts jumps by whole rounds of N.
    """
    shares = 0.0
    for start, latency, error in zip(samples.start_ns, samples.latency_ns, samples.error, strict=True):
        overlap = min(start + latency, window[1]) - max(start, window[0])
        if not error and overlap > 0:
            shares += overlap / latency
    return shares


def _tokens(samples: Samples, good: list[int]) -> tuple[float | None, list[str]]:
    """Mean tokens of a success by the server's own count, and a note where not all answers have it."""
    known = [samples.tokens[i] for i in good if samples.tokens[i] >= 0]
    if not good:
        return None, []
    if not known:
        return None, ["tokens/s is unknown: the answers hold no usage"]
    notes = (
        [] if len(known) == len(good) else ["tokens/s is from a part of the answers: others hold no usage"]
    )
    return sum(known) / len(known), notes


def _nothing(errors: Counter[str]) -> str:
    if not errors:
        return "no request was answered within the window"
    counts = ", ".join(f"{name} {count}" for name, count in errors.most_common())
    return f"no request succeeded ({counts})"
