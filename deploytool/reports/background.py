"""The sections that let someone else judge or repeat a run: how it was measured, and where."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.records import RunRecord
from deploytool.reports import wording
from deploytool.reports.flat import flattened
from deploytool.reports.markup import Markup
from deploytool.reports.parts import pairs, paragraph, section
from deploytool.reports.reduction import Histogram, Key
from deploytool.statistics import METHOD

SAID = frozenset({"duration_s", "warmup_s", "grid", "batch", "concurrency"})  # what the page says elsewhere


def environment(record: RunRecord) -> Markup:
    """The machines and versions, as they were recorded."""
    rows = flattened({name: value for name, value in record.environment.items() if name != "method"})
    body = pairs("Environment", rows) if rows else paragraph("It was not recorded.", "missing")
    return section("environment", "Environment", body)


def method(record: RunRecord, histograms: Mapping[Key, Histogram] | str) -> Markup:
    """How it was measured, so that someone else can judge it or repeat it."""
    asked = record.request
    sizes = [cell.requests for cell in record.cells if cell.state == "done"]
    readings = sum(phase.samples for phase in record.memory)
    modes = sorted({cell.mode for cell in record.cells}) or ["closed"]
    facts = [
        ("load", "; ".join(wording.LOOPS[mode] for mode in modes)),
        ("measured window", _seconds(asked.get("duration_s"))),
        ("warm-up before it", _seconds(asked.get("warmup_s"))),
        ("samples per cell", f"{min(sizes):,} to {max(sizes):,}" if sizes else ""),
        ("raw samples", _raw(record, histograms)),
        ("memory readings", f"{readings:,}" if readings else ""),
        ("same work as", record.manifest or ""),
    ]
    others = {name: value for name, value in asked.items() if name not in SAID and value is not None}
    facts += [("percentiles", METHOD)] if not record.environment.get("method") else []
    facts += flattened(record.environment.get("method") or {}) + flattened(others)
    return section("method", "How it was measured", pairs("How it was measured", facts))


def _seconds(value: object) -> str:
    return wording.duration(value) if isinstance(value, (int, float)) else ""


def _raw(record: RunRecord, histograms: Mapping[Key, Histogram] | str) -> str:
    if isinstance(histograms, str):
        return histograms
    kept = sum(histogram.count for histogram in histograms.values())
    told = sum(cell.requests for cell in record.cells)
    same = "as many as the table counts" if kept == told else f"the table counts {told:,}"
    return f"{kept:,} answered requests of the measured windows, {same}"
