"""The same load several times, each a whole run, and how far the runs lie apart."""

from __future__ import annotations

import secrets
import statistics
from typing import Any

from deploytool.benchmark.options import LoadOptions, Progress
from deploytool.benchmark.run import run_load
from deploytool.records import Cell, RunRecord
from deploytool.store import Store
from deploytool.targets import Resolved


def run_series(
    target: Resolved, options: LoadOptions, store: Store, progress: Progress, times: int
) -> list[RunRecord]:
    """`times` runs, one after the other; a run that did not finish is the last. The last holds the spread."""
    series = secrets.token_hex(4)
    records: list[RunRecord] = []
    for number in range(1, times + 1):
        progress.note(f"whole run {number} of {times}")
        record = run_load(target, options, store, progress)
        record.series = {"id": series, "number": number, "of": times}
        records.append(record)
        if number == times or record.state != "finished":
            record.series["spread"] = spread(records)
        store.update_run(record)
        if record.state != "finished":
            break
    return records


def spread(records: list[RunRecord]) -> list[dict[str, Any]]:
    """For each cell and figure: lowest, median and highest of the runs, and their distance in percent.

    A figure that a run lacks leaves that run out.
    """
    cells: dict[str, list[Cell]] = {}
    for record in records:
        for cell in record.cells:
            if cell.state == "done":
                cells.setdefault(cell.name, []).append(cell)
    found = []
    for name, repeats in cells.items():
        row: dict[str, Any] = {"cell": name, "runs": len(repeats)}
        for figure in ("qps", "p50_ms", "p99_ms"):
            values = [value for cell in repeats if (value := _figure(cell, figure)) is not None]
            if values:
                middle = statistics.median(values)
                row[figure] = {
                    "min": min(values),
                    "median": middle,
                    "max": max(values),
                    "spread_percent": 100 * (max(values) - min(values)) / middle if middle else None,
                }
        found.append(row)
    return found


def _figure(cell: Cell, name: str) -> float | None:
    if name == "qps":
        return cell.qps
    value: float | None = getattr(cell.latency_ms, name.removesuffix("_ms"))
    return value
