"""Raw rows reduced, in one pass, to what the charts draw."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rows = Iterable[Mapping[str, Any]]
PER_DECADE = 32
MOST_POINTS = 700
PAUSE_S = 60.0
# column of samples.MEMORY -> (what it is, unit)
PANELS: dict[str, tuple[str, str]] = {
    "vram": ("VRAM in use", "MiB"),
    "rss": ("RSS of the server's processes", "MiB"),
    "utilisation": ("GPU utilisation", "%"),
    "power": ("Power", "W"),
}
OF_SERVER = "of the server"
_SERIES = {
    "vram_used_mib": ("vram", ""),
    "vram_process_mib": ("vram", OF_SERVER),
    "rss_mib": ("rss", ""),
    "utilisation_percent": ("utilisation", ""),
    "power_w": ("power", ""),
}

Key = tuple[float, float]


def key(cell: str) -> Key | None:
    """Batch and concurrency (open loop: rate) of a cell's name, as in "b8 c4"; None where it has no two."""
    numbers = re.findall(r"\d+(?:\.\d+)?", cell)
    return (_number(numbers[0]), _number(numbers[1])) if len(numbers) > 1 else None


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


@dataclass
class Histogram:
    """Latencies of one cell in buckets of equal width on a log scale, `PER_DECADE` to a factor of ten."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def add(self, latency_ns: int) -> None:
        bucket = math.floor(math.log10(max(latency_ns, 1) / 1e6) * PER_DECADE)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1


def edge_ms(bucket: int) -> float:
    """The lower edge of a bucket."""
    return float(10.0 ** (bucket / PER_DECADE))


def histograms(rows: Rows) -> dict[Key, Histogram]:
    """The latencies of the successful requests of the measured window, by cell."""
    by_name: dict[str, Histogram] = {}
    for row in rows:
        if row["phase"] == "measure" and row["error"] is None and row["latency_ns"] is not None:
            name = row["cell"]
            if name not in by_name:
                by_name[name] = Histogram()
            by_name[name].add(row["latency_ns"])
    return {found: histogram for name, histogram in by_name.items() if (found := key(name)) is not None}


@dataclass
class Series:
    """One quantity over time: seconds since the first reading, and values. `device` None: no card's."""

    panel: str
    device: int | None
    part: str
    seconds: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def segments(self, most: int = MOST_POINTS) -> list[list[tuple[float, float]]]:
        """About `most` points, the highest of each stretch: no peak is lost. Parted where readings lack."""
        count = len(self.values)
        step = max(1, math.ceil(count / most))
        stretches = (range(low, min(low + step, count)) for low in range(0, count, step))
        picks = [max(stretch, key=self.values.__getitem__) for stretch in stretches]
        points = [(self.seconds[pick], self.values[pick]) for pick in picks]
        apart_s = max(1.0, 4 * (self.seconds[-1] - self.seconds[0]) / max(1, len(points)))
        found: list[list[tuple[float, float]]] = []
        for point in points:
            if found and point[0] - found[-1][-1][0] <= apart_s:
                found[-1].append(point)
            else:
                found.append([point])
        return found


@dataclass
class Timeline:
    """Readings over time, with the phases (name, from, to, in seconds) in order. `cuts`: pauses left out."""

    series: list[Series]
    phases: list[tuple[str, float, float]]
    cuts: list[float]
    readings: int

    @property
    def devices(self) -> list[int]:
        return sorted({series.device for series in self.series if series.device is not None})

    @property
    def end_s(self) -> float:
        return self.phases[-1][2] if self.phases else 0.0


class _Clock:
    """Seconds since the first reading. A pause, or a clock that began anew (a resumed run), counts as one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.readings = 0
        self.cuts: list[float] = []
        self._last_ns: int | None = None

    def moves(self, time_ns: int) -> bool:
        """Whether this is another moment than the one before."""
        if time_ns == self._last_ns:
            return False
        if self._last_ns is not None:
            passed = (time_ns - self._last_ns) / 1e9
            if not 0 <= passed <= PAUSE_S:
                passed = 1.0
                self.cuts.append(self.now + 0.5)
            self.now += passed
        self._last_ns = time_ns
        self.readings += 1
        return True


def timeline(rows: Rows) -> Timeline:
    """All readings that have a value, by card and quantity. Rows come in the order of time."""
    found: dict[tuple[str, int | None], Series] = {}
    phases: list[tuple[str, float, float]] = []
    clock = _Clock()
    for row in rows:
        moved = clock.moves(row["time_ns"])
        if moved:
            _extend(phases, row["phase"] or "", clock.now)
        for column, (panel, part) in _SERIES.items():
            value = row[column]
            device = None if panel == "rss" else row["device"]
            if value is None or (panel == "rss" and not moved):
                continue
            series = found.setdefault((column, device), Series(panel, device, part))
            series.seconds.append(clock.now)
            series.values.append(value)
    return Timeline(list(found.values()), phases, clock.cuts, clock.readings)


def _extend(phases: list[tuple[str, float, float]], phase: str, now: float) -> None:
    if phases:
        name, start, _ = phases[-1]
        phases[-1] = (name, start, now)
        if name == phase:
            return
    phases.append((phase, now, now))
