"""A run as CSV: one row a cell, full precision, empty where a value is unknown."""

from __future__ import annotations

import csv
import io
from typing import Any

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording

PERCENTILES = ("p50", "p90", "p95", "p99", "p999", "max", "mean")


def render(record: RunRecord) -> str:
    """RFC 4180 with a header line; the run's identity stands in every row, so that files can be joined."""
    rows = [_run(record) | _cell(cell) for cell in wording.in_order(record.cells)]
    header = [*_run(record), *_cell(_NO_CELL)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, header)
    writer.writeheader()
    writer.writerows({name: safe(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _run(record: RunRecord) -> dict[str, Any]:
    target = record.target
    return {
        "run": record.id,
        "started_at": record.started_at,
        "model": target.model,
        "deployment": target.deployment,
        "url": target.url,
        "engine": target.engine,
        "engine_version": target.engine_version,
        "profile": target.profile,
        "dtype": target.dtype,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    latency = {f"latency_{name}_ms": getattr(cell.latency_ms, name) for name in PERCENTILES}
    return {
        "batch": cell.batch,
        "concurrency": cell.concurrency,
        "mode": cell.mode,
        "state": cell.state,
        "validity": wording.flaw(cell) if cell.state == "done" else None,
        "reason": "; ".join(wording.flaw_reasons(cell)),
        "requests": cell.requests,
        "errors": wording.failures(cell),
        "errors_by_class": "; ".join(f"{name}={number}" for name, number in cell.errors.items()),
        "duration_s": cell.duration_s,
        "qps": wording.rate(cell, "qps"),
        "texts_per_s": wording.rate(cell, "texts_per_s"),
        "tokens_per_s": cell.tokens_per_s,
        **latency,
        "vram_peak_mib": cell.vram_peak_mib,
        "vram_reason": cell.vram_reason,
        "rss_peak_mib": cell.rss_peak_mib,
        "gpu_utilisation_percent": cell.gpu_utilisation_percent,
        "power_peak_w": cell.power_peak_w,
        "response_bytes": cell.response_bytes,
        "client_cpu_percent": cell.client_cpu_percent,
        "notes": "; ".join(cell.notes),
    }


def safe(value: Any) -> Any:
    """A spreadsheet takes text that begins like a formula for one; an apostrophe keeps it text."""
    if not isinstance(value, str):
        return value
    text = wording.plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


_NO_CELL = Cell.model_validate(
    {
        "batch": 1,
        "concurrency": 1,
        "requests": 0,
        "duration_s": 0,
        "qps": 0,
        "texts_per_s": 0,
        "latency_ms": {},
    }
)
