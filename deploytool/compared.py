"""The outcome of a comparison, as data: what `comparison` finds and `reports.comparison` tells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deploytool.schema import Document

Verdict = Literal["better", "worse", "same", "unknown"]
Ruling = Literal["ok", "failed", "within_noise", "skipped"]


class Figure(Document):
    """One figure of a cell in both runs. `change` is in percent of the baseline; of `errors` in points.

    `low` to `high` is the interval of the change. `beyond_noise`: the interval lies on one side of no change;
    None where it cannot be told, for the `reason`.
    """

    metric: str
    title: str
    unit: str
    baseline: float | None
    current: float | None
    change: float | None = None
    change_unit: Literal["%", "points"] = "%"
    low: float | None = None
    high: float | None = None
    beyond_noise: bool | None = None
    verdict: Verdict = "unknown"
    reason: str | None = None


class CellDifference(Document):
    """One cell of both runs. `excluded` says why its figures are not compared."""

    cell: str
    batch: int
    baseline_repeats: int = 0
    current_repeats: int = 0
    figures: tuple[Figure, ...] = ()
    excluded: str | None = None
    lost: bool = Field(default=False, description="the baseline has it, the other run could not measure it")

    def figure(self, metric: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.metric == metric), None)


class Judged(Document):
    """One condition on one cell: `failed` only where the condition is met *and* it is beyond the noise."""

    threshold: str
    metric: str
    cell: str
    ruling: Ruling
    why: str


class Side(Document):
    """One side of a comparison: the runs that were pooled as repeats, and what they measured."""

    runs: tuple[str, ...]
    subject: str
    started_at: str


class Comparison(Document):
    """Two sides, cell by cell. `confidence` holds for all intervals together, `each` for every single one."""

    baseline: Side
    current: Side
    unlike: tuple[str, ...] = Field(default=(), description="how the work differs; only with --force")
    changed: tuple[str, ...] = Field(default=(), description="what was changed between them, as far as known")
    warnings: tuple[str, ...] = ()
    confidence: float
    each: float
    noise: str = Field(description="where the noise between runs is from")
    cells: tuple[CellDifference, ...]
    judged: tuple[Judged, ...] = ()

    @property
    def failed(self) -> tuple[Judged, ...]:
        return tuple(one for one in self.judged if one.ruling == "failed")

    @property
    def passed(self) -> bool:
        return not self.failed
