"""A run as OpenMetrics text, as a Pushgateway takes it: gauges without timestamps.

    deploytool runs export latest --format openmetrics -o - |
        curl --data-binary @- http://HOST:9091/metrics/job/deploytool

https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording

PREFIX = "deploytool_load_"
PERCENTILES = {"p50": "50", "p90": "90", "p95": "95", "p99": "99", "p999": "99.9", "max": "100"}
MIB = float(2**20)
Labels = dict[str, str]


class Family(NamedTuple):
    """A gauge of every cell: its name, unit (a suffix of the name, or ""), what it is, and its values."""

    name: str
    unit: str
    help: str
    values: Callable[[Cell], Iterator[tuple[Labels, float | None]]]


def _one(
    name: str, unit: str, words: str, value: Callable[[Cell], float | None], scale: float = 1.0
) -> Family:
    def values(cell: Cell) -> Iterator[tuple[Labels, float | None]]:
        found = value(cell)
        yield {}, None if found is None else found * scale

    return Family(name, unit, words, values)


def _latency(cell: Cell) -> Iterator[tuple[Labels, float | None]]:
    for name, percent in PERCENTILES.items():
        value = getattr(cell.latency_ms, name)
        yield {"percentile": percent}, None if value is None else value / 1000


def _interval(cell: Cell) -> Iterator[tuple[Labels, float | None]]:
    for name, (low, high) in cell.latency_ci95_ms.items():
        percent = PERCENTILES.get(name, name)
        yield {"percentile": percent, "bound": "low"}, low / 1000
        yield {"percentile": percent, "bound": "high"}, high / 1000


def _errors(cell: Cell) -> Iterator[tuple[Labels, float | None]]:
    for name, count in cell.errors.items():
        yield {"class": name}, float(count)


def _verdict(cell: Cell) -> Iterator[tuple[Labels, float | None]]:
    found = wording.flaw(cell) or "valid"
    for verdict in ("valid", "suspect", "void", "failed", "interrupted"):
        yield {"verdict": verdict}, float(found == verdict)


FAMILIES = (
    Family(
        "verdict", "", "1 for the verdict on this cell; figures of void cells count for nothing", _verdict
    ),
    _one("requests", "", "Successful requests in the measured window", lambda cell: float(cell.requests)),
    Family("errors", "", "Failed requests in the measured window, by class", _errors),
    _one("requests_per_second", "", "Throughput (QPS)", lambda cell: wording.rate(cell, "qps")),
    _one("texts_per_second", "", "Throughput in texts", lambda cell: wording.rate(cell, "texts_per_s")),
    _one("tokens_per_second", "", "Throughput in tokens", lambda cell: cell.tokens_per_s),
    Family("latency_seconds", "seconds", "Order statistics of raw samples; 100 is the highest", _latency),
    Family("latency_ci95_seconds", "seconds", "95 % confidence intervals of the percentiles", _interval),
    _one("vram_peak_bytes", "bytes", "Peak of the cards' memory", lambda cell: cell.vram_peak_mib, MIB),
    _one("rss_peak_bytes", "bytes", "Peak of the server's processes", lambda cell: cell.rss_peak_mib, MIB),
    _one("gpu_utilisation_ratio", "ratio", "Mean", lambda cell: cell.gpu_utilisation_percent, 0.01),
    _one("power_peak_watts", "watts", "Peak of all cards", lambda cell: cell.power_peak_w),
    _one("energy_per_million_tokens_joules", "joules", "Energy", lambda cell: cell.energy_j_per_1m_tokens),
    _one("window_seconds", "seconds", "Length of the measured window", lambda cell: cell.duration_s),
)


def render(record: RunRecord) -> str:
    """The whole exposition. What is unknown is left out: nought would be a figure."""
    target = record.target
    who = {"model": target.model, "target": target.deployment or target.url, "engine": target.engine or "",
           "profile": target.profile or ""}  # fmt: skip
    info = who | {"run": record.id, "state": record.state, "manifest": record.manifest or ""}
    lines = [
        *_head("run", "", "info", "What was measured"), _sample("run_info", info, 1.0),
        *_head("run_started_timestamp_seconds", "seconds", "gauge", "When the run began"),
        *_started(record, who),
    ]  # fmt: skip
    for family in FAMILIES:
        samples = [
            _sample(family.name, who | _where(cell) | labels, value)
            for cell in wording.in_order(record.cells)
            for labels, value in family.values(cell)
            if value is not None
        ]
        if samples:
            lines += [*_head(family.name, family.unit, "gauge", family.help), *samples]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _where(cell: Cell) -> Labels:
    load = {"concurrency": str(cell.concurrency)} if cell.rate is None else {"rate": f"{cell.rate:g}"}
    return {"mode": cell.mode, "batch": str(cell.batch), **load}


def _started(record: RunRecord, who: Labels) -> list[str]:
    try:
        at = datetime.fromisoformat(record.started_at).timestamp()
    except ValueError:
        return []
    return [_sample("run_started_timestamp_seconds", who, at)]


def _head(name: str, unit: str, kind: str, words: str) -> list[str]:
    lines = [f"# TYPE {PREFIX}{name} {kind}"]
    lines += [f"# UNIT {PREFIX}{name} {unit}"] if unit else []
    return [*lines, f"# HELP {PREFIX}{name} {words}"]


def _sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items() if text)
    return f"{PREFIX}{name}{{{pairs}}} {value!r}"


def _escaped(text: str) -> str:
    return wording.plain(text).replace("\\", "\\\\").replace('"', '\\"')
