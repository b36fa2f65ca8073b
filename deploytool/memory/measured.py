"""Measured memory, and what it corrects in the next estimate. Pure arithmetic, in MiB per card.

An estimate has two parts: at rest (weights, pool, context: what a started server holds) and work (what a full
forward pass adds). A start measures the first; a load measures the second, but only where it was known to
fill a forward pass. A load that was not is a lower bound: it may raise an estimate, never lower it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from deploytool.memory import Range
from deploytool.schema import Document

REST_MARGIN = 0.02  # of what was measured at rest: allocators round, drivers differ by some MiB
WORK_MARGIN = 0.10  # of what a full forward pass was measured to add
LATEST = 20  # measurements that count: older ones are of older drivers and settings


class Measured(Document):
    """One real start, and the load after it, of one model, engine, version, dtype and card. MiB per card.

    `rest_mib` and `work_mib` are what the formulas, without any correction, expected of it.
    """

    model: str
    engine: str
    engine_version: str | None = None
    card: str = Field(description="the card's name, as NVML tells it")
    card_mib: float | None = Field(default=None, description="NVML memory.total of it")
    dtype: str
    quantization: str | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    weights_mib: float = Field(gt=0)
    rest_mib: float = Field(gt=0)
    work_mib: float = Field(ge=0)
    loaded_mib: float = Field(gt=0, description="measured after the start, without what warming up reserved")
    peak_mib: float | None = Field(default=None, gt=0, description="measured warmed up, or under load")
    full: bool = Field(default=False, description="a full forward pass was among what was measured")
    figure: Literal["process", "card"] = Field(
        description="process: memory of the server's own; card: what the card held more than before the start"
    )
    source: Literal["start", "load"]
    deployment: str = Field(description="id of the start that this belongs to")
    at: str = Field(description="ISO 8601, UTC")

    @property
    def problem(self) -> str | None:
        """Why this cannot have been measured of that server, None where it can."""
        if self.loaded_mib < self.weights_mib:
            return (
                f"{self.loaded_mib:,.0f} MiB on the card are less than the weights"
                f" ({self.weights_mib:,.0f} MiB): the model was not on it"
            )
        if self.peak_mib is not None and self.peak_mib < self.loaded_mib:
            return "less memory under load than at rest: another program's memory was counted"
        return None


class Correction(NamedTuple):
    """What measurements change in an estimate.

    `shift`: MiB to add to what is held at rest. `factor`: of the expected work, None where no full forward
    pass was measured. `floor`: the largest share of the expected work that was seen.
    """

    runs: int
    shift: Range
    factor: Range | None
    floor: float
    said: str

    def apply(self, rest: Range, work: Range) -> Range:
        """The whole need, corrected."""
        held = Range(*(max(rest.expected + shift, 0.0) for shift in self.shift))
        if self.factor is not None:
            return held.plus(Range(*(work.expected * factor for factor in self.factor)))
        seen = work.expected * self.floor
        return held.plus(Range(*(max(part, seen) for part in work)))


def correction(
    measured: Sequence[Measured], *, dtype: str, tensor_parallel: int, quantization: str | None = None
) -> Correction | None:
    """What the measurements of this dtype and number of cards say; None where there are none."""
    used = [
        entry
        for entry in measured
        if (entry.dtype, entry.tensor_parallel, entry.quantization) == (dtype, tensor_parallel, quantization)
        and entry.problem is None
    ]
    used = sorted(used, key=lambda entry: entry.at)[-LATEST:]
    if not used:
        return None
    # A load tells again what its start told: each start counts once.
    shifts = list({entry.deployment: entry.loaded_mib - entry.rest_mib for entry in used}.values())
    margin = REST_MARGIN * max(entry.loaded_mib for entry in used)
    shares = [(entry, _share(entry)) for entry in used]
    full = [share for entry, share in shares if entry.full and share is not None]
    runs = len(shifts)
    middle = statistics.median(shifts)
    said = f"calibrated by {runs} run{'s' if runs != 1 else ''} on this card: {middle:+,.0f} MiB at rest"
    if full:
        said += f", {statistics.median(full):.2f} x the expected work"
    else:
        said += "; no full forward pass was measured (`deploytool calibrate` does)"
    return Correction(
        runs=runs,
        shift=Range(min(shifts) - margin, middle, max(shifts) + margin),
        factor=Range(min(full) * (1 - WORK_MARGIN), statistics.median(full), max(full) * (1 + WORK_MARGIN))
        if full
        else None,
        floor=max((share for _, share in shares if share is not None), default=0.0),
        said=said,
    )


def _share(entry: Measured) -> float | None:
    """What the load added, as a share of the expected work; None where there was no load."""
    if entry.peak_mib is None or entry.work_mib <= 0:
        return None
    return (entry.peak_mib - entry.loaded_mib) / entry.work_mib
