"""Conditions on changes, ruled on cell by cell.

A condition fails a comparison only where it is met and the change is beyond the noise. What cannot be told is
never a silent pass: a cell or a figure that the baseline has and the other run lacks fails, and so does a
condition that could be ruled on nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploytool.compared import CellDifference, Figure, Judged
from deploytool.reports.comparison import signed
from deploytool.reports.wording import figure as shown
from deploytool.thresholds import LATENCIES, Threshold

EVERYWHERE = "all cells"


def rule(cells: Sequence[CellDifference], thresholds: Sequence[Threshold]) -> Iterator[Judged]:
    """What every threshold says of every cell."""
    for threshold in thresholds:
        rulings = [_one(threshold, cell) for cell in cells]
        yield from rulings
        if all(ruling.ruling == "skipped" for ruling in rulings):
            yield Judged(
                threshold=threshold.text,
                metric=threshold.metric.name,
                cell=EVERYWHERE,
                ruling="failed",
                why=f"{threshold.metric.title} could be compared in no cell; leave the condition out, or "
                "measure what it needs (a percentile: longer, or --min-samples)",
            )


def _one(threshold: Threshold, cell: CellDifference) -> Judged:
    def judged(ruling: str, why: str) -> Judged:
        return Judged.model_validate(
            {"threshold": threshold.text, "metric": threshold.metric.name, "cell": cell.cell,
             "ruling": ruling, "why": why}
        )  # fmt: skip

    if cell.excluded is not None:
        return judged("failed" if cell.lost else "skipped", cell.excluded)
    figure = cell.figure(threshold.metric.name)
    if figure is None:
        return judged("skipped", f"neither run has {threshold.metric.title}")
    if figure.change is None or figure.baseline is None or figure.current is None:
        # A percentile that had too few samples by chance is not lost, unless it is so in every cell.
        lost = figure.baseline is not None and figure.current is None and figure.metric not in LATENCIES
        return judged("failed" if lost else "skipped", figure.reason or "the change is not known")
    value = figure.change
    if threshold.unit != "%":
        value = figure.current - figure.baseline
    if not threshold.passed_by(value):
        return judged("ok", told(figure))
    if not figure.beyond_noise:
        return judged("within_noise", f"{told(figure)}: not beyond the noise")
    return judged("failed", told(figure))


def told(figure: Figure) -> str:
    """As "P99 12.1 -> 14.5 ms, +20.1 % (+15.0 to +25.3)"."""
    text = f"{figure.title} {shown(figure.baseline)} -> {shown(figure.current)} {figure.unit}"
    if figure.change is None:
        return text
    unit = " %" if figure.change_unit == "%" else " points"
    text += f", {signed(figure.change)}{unit}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({signed(figure.low)} to {signed(figure.high)})"
