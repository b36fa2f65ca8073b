"""What a sampler read: rows for the raw samples, and a running summary by phase.

A figure that could not be read is None in its row; the summary counts how often, and says why.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from deploytool.records import PhaseMemory

FIGURES = ("vram_used_mib", "vram_process_mib", "utilisation_percent", "power_w")


class Reading(NamedTuple):
    """One card at one moment (`device` None: no card). `reasons`: figure -> why it is None."""

    device: int | None
    figures: tuple[float | None, float | None, float | None, float | None]
    reasons: dict[str, str]


class Timeline:
    """All rows in columns of machine numbers: a day at 10 readings a second takes 60 MB, not 300."""

    def __init__(self) -> None:
        self._phases: list[str] = []
        self._numbers = {name: array("q") for name in ("time_ns", "phase", "device")}
        self._figures = {name: array("d") for name in (*FIGURES, "rss_mib")}

    def add(self, time_ns: int, phase: str, readings: Sequence[Reading], rss_mib: float | None) -> None:
        if not self._phases or self._phases[-1] != phase:
            self._phases.append(phase)
        for reading in readings:
            self._numbers["time_ns"].append(time_ns)
            self._numbers["phase"].append(len(self._phases) - 1)
            self._numbers["device"].append(-1 if reading.device is None else reading.device)
            for name, value in zip(FIGURES, reading.figures, strict=True):
                self._figures[name].append(math.nan if value is None else value)
            self._figures["rss_mib"].append(math.nan if rss_mib is None else rss_mib)

    def rows(self) -> list[dict[str, Any]]:
        """Rows with the columns of `samples.MEMORY`."""
        numbers, figures = self._numbers, self._figures
        return [
            {
                "time_ns": numbers["time_ns"][row],
                "phase": self._phases[numbers["phase"][row]],
                "device": None if numbers["device"][row] < 0 else numbers["device"][row],
                **{
                    name: None if math.isnan(column[row]) else column[row] for name, column in figures.items()
                },
            }
            for row in range(len(numbers["device"]))
        ]


class Tally:
    """The summary of one phase, kept up to date reading by reading."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.samples = 0
        self.gap_max_ms: float | None = None
        self._peaks: dict[str, float] = {}
        self._utilisation = (0.0, 0)
        self._missing: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def add(self, readings: Sequence[Reading], rss_mib: float | None, rss_reason: str | None) -> None:
        """One moment: every card, and the server's memory on the host."""
        self.samples += 1
        for position, name in enumerate(FIGURES):
            values = [reading.figures[position] for reading in readings]
            known = [value for value in values if value is not None]
            if name == "utilisation_percent":
                self._utilisation = (self._utilisation[0] + sum(known), self._utilisation[1] + len(known))
            if len(known) < len(values):
                # A sum without one of the cards would be too small: the moment has no sum.
                self._miss(
                    name, next(filter(None, (reading.reasons.get(name) for reading in readings)), None)
                )
            else:
                self._peaks[name] = max(self._peaks.get(name, 0.0), sum(known))
        if rss_mib is None:
            self._miss("rss_mib", rss_reason)
        else:
            self._peaks["rss_mib"] = max(self._peaks.get("rss_mib", 0.0), rss_mib)

    def gap(self, milliseconds: float) -> None:
        self.gap_max_ms = max(self.gap_max_ms or 0.0, milliseconds)

    def summary(self, failure: str | None = None) -> PhaseMemory:
        """`failure`: why the sampler stopped before its time."""
        missing = {name: self._said(name) for name in self._missing}
        if not self.samples:
            missing = dict.fromkeys((*FIGURES, "rss_mib"), failure or "no reading fell into this phase")
        elif failure:
            missing = {name: missing.get(name, failure) for name in (*FIGURES, "rss_mib")}
        total, count = self._utilisation
        return PhaseMemory(
            phase=self.phase,
            vram_peak_mib=self._peaks.get("vram_used_mib"),
            vram_process_peak_mib=self._peaks.get("vram_process_mib"),
            vram_reason=missing.get("vram_used_mib"),
            rss_peak_mib=self._peaks.get("rss_mib"),
            utilisation_percent=total / count if count else None,
            power_peak_w=self._peaks.get("power_w"),
            missing=missing,
            gap_max_ms=self.gap_max_ms,
            samples=self.samples,
        )

    def _miss(self, name: str, reason: str | None) -> None:
        self._missing[name] += 1
        if reason:
            self._reasons[name] = reason

    def _said(self, name: str) -> str:
        reason = self._reasons.get(name, "unknown")
        count = self._missing[name]
        return reason if count == self.samples else f"{reason} (in {count} of {self.samples} readings)"
