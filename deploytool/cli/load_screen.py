"""What a terminal shows while a load runs: the grid as it fills up, and how the present cell and its client do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploytool.benchmark.options import Point
    from deploytool.loadgen.plan import Live
    from deploytool.records import Cell

MOST_ROWS, MOST_COLUMNS = 16, 10  # a larger grid is shown as its progress alone
CLIENT_BUSY_PERCENT = 80.0  # where a cell becomes void, as in loadgen.validity
SHADES = ("", "blue", "cyan", "green")


class Grid:
    """Every cell of the run: to come, at work, or what came out."""

    def __init__(self, points: Iterable[Point], known: Iterable[Cell] = ()) -> None:
        self.points = list(points)
        self.cells = {cell.name: cell for cell in known}
        self.now = ""

    def table(self) -> Any:
        """Batches down, concurrencies or rates across; None where the grid is too large to be read."""
        from rich.table import Table

        batches = list(dict.fromkeys(point.batch for point in self.points))
        loads = list(dict.fromkeys(_load(point) for point in self.points))
        if not self.points or len(batches) > MOST_ROWS or len(loads) > MOST_COLUMNS:
            return None
        names = {(point.batch, _load(point)): point.name for point in self.points}
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("batch", justify="right", style="dim")
        for load in loads:
            table.add_column(load, justify="right")
        best = max((cell.qps for cell in self.cells.values()), default=0.0)
        for batch in batches:
            table.add_row(str(batch), *(self._shown(names.get((batch, load)), best) for load in loads))
        return table

    def _shown(self, name: str | None, best: float) -> Any:
        from rich.text import Text

        if name is None:
            return Text("")
        if name == self.now:
            return Text("measuring", style="bold reverse")
        cell = self.cells.get(name)
        if cell is None:
            return Text("·", style="dim")
        if cell.state != "done":
            return Text(cell.state, style="red")
        tail = next(
            (value for value in (cell.latency_ms.p99, cell.latency_ms.p95) if value is not None), None
        )
        words = f"{_short(cell.qps)}/s" + ("" if tail is None else f" {_short(tail)} ms")
        if cell.validity is not None and cell.validity.verdict != "valid":
            mark, style = ("✗", "red") if cell.validity.verdict == "void" else ("?", "yellow")
            return Text(f"{words} {mark}", style=style)
        return Text(words, style=SHADES[min(3, int(4 * cell.qps / best))] if best else "")


def status(live: Live) -> Any:
    """The present cell: rate, tail, errors, memory, and whether the client itself keeps up."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{live.phase:<12}", style="bold")
    text.append("   QPS ").append(_known(live.qps), style="bold")
    text.append("   P99 ~").append(_known(live.p99_ms, " ms"), style="bold")
    text.append("   errors ").append(f"{live.errors:,}", style="bold red" if live.errors else "bold")
    if live.memory_mib is not None:
        text.append(f"   {live.memory_kind} ").append(f"{live.memory_mib:,.0f} MiB", style="bold")
    busy = live.cpu_percent
    if busy is not None:
        style = "bold red" if busy > CLIENT_BUSY_PERCENT else "bold"
        text.append("   client CPU ").append(f"{busy:.0f} %", style=style)
    if live.lag_ms is not None:
        text.append("   lag ").append(f"{live.lag_ms:.1f} ms", style="bold")
    return text


def _load(point: Point) -> str:
    return f"c{point.concurrency}" if point.rate is None else f"{point.rate:g}/s"


def _known(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{_short(value)}{unit}"


def _short(value: float) -> str:
    """Three digits at least, without decimals from a hundred on."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
