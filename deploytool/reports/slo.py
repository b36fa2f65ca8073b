"""Which cells of a run hold a service level objective, as far as their samples can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.thresholds import Threshold, parse_slo

Ruling = Literal["holds", "breaks", "unsure"]
NAMES = {"p99.9": "p999"}  # a percentile's name in conditions -> in records


def of_run(record: RunRecord) -> tuple[Threshold, ...]:
    """The SLO that a capacity search was given; of a plain load none."""
    asked = record.request.get("capacity")
    text = asked.get("slo") if isinstance(asked, dict) else None
    return parse_slo(text) if isinstance(text, str) else ()


def judge(cell: Cell, slo: Sequence[Threshold]) -> Ruling | None:
    """None: the cell counts for nothing, or nothing is asked."""
    if not slo or not wording.counts(cell):
        return None
    found = [_one(cell, condition) for condition in slo]
    return "breaks" if "breaks" in found else "unsure" if "unsure" in found else "holds"


def _one(cell: Cell, condition: Threshold) -> Ruling:
    name = NAMES.get(condition.metric.name, condition.metric.name)
    if name == "errors":
        failed = wording.failures(cell)
        share = 100 * failed / (cell.requests + failed)
        return "holds" if condition.passed_by(share) else "breaks"
    if cell.adjusted_ms.get(name) == "infinite":
        return "breaks"
    value = getattr(cell.latency_ms, name)
    if value is None:
        return "unsure"
    low, high = cell.latency_ci95_ms.get(name, (value, value))
    if condition.passed_by(high):
        return "holds"
    return "unsure" if condition.passed_by(low) else "breaks"


def limit_ms(slo: Sequence[Threshold], percentile: str) -> Threshold | None:
    """The condition on this percentile ("p99", "p999"), the lowest where there are several."""
    found = [one for one in slo if NAMES.get(one.metric.name, one.metric.name) == percentile]
    return min(found, key=lambda one: one.amount, default=None)


def sentence(record: RunRecord, slo: Sequence[Threshold]) -> str | None:
    """Where it holds, where it breaks, where the samples cannot tell."""
    if not slo:
        return None
    rulings = [(judge(cell, slo), wording.label(cell)) for cell in wording.in_order(record.cells)]
    words = {"holds": "holds at", "breaks": "is broken at", "unsure": "cannot be told (too few samples) at"}
    parts = []
    for ruling, said in words.items():
        cells = [label for found, label in rulings if found == ruling]
        if cells:
            more = "" if len(cells) <= 12 else f" and {len(cells) - 12} more"
            parts.append(f"{said} {', '.join(cells[:12])}{more}")
    asked = ", ".join(condition.text for condition in slo)
    return f"The SLO {asked} {'; '.join(parts)}." if parts else f"The SLO {asked} can be told of no cell."
