"""How a running load is shown on stderr: the grid as it fills up on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deploytool.cli.load_screen import Grid, status
from deploytool.cli.output import note

if TYPE_CHECKING:
    from deploytool.benchmark import LoadOptions, Progress
    from deploytool.loadgen.plan import Live
    from deploytool.records import Cell, RunRecord

PLAIN_LINE_S = 10.0  # between two plain lines of one cell
CELL_OVERHEAD_S = 1.5  # starting a load generator and waiting for its last answers


@contextlib.contextmanager
def view(options: LoadOptions) -> Iterator[Progress]:
    """The view that stderr can show."""
    if not sys.stderr.isatty():
        yield PlainView(options)
        return
    from rich.console import Console
    from rich.live import Live as Screen

    console = Console(stderr=True, highlight=False)
    with Screen("", console=console, transient=True, refresh_per_second=4) as screen:
        yield TerminalView(options, screen)


class PlainView:
    """A line when a cell begins to be long, and one when it ends."""

    def __init__(self, options: LoadOptions) -> None:
        self.cell_s = options.warmup_s + options.duration_s + CELL_OVERHEAD_S
        self.total = self.number = 0
        self.name = ""
        self.said = 0.0

    def note(self, line: str) -> None:
        note(line)

    def begins(self, record: RunRecord, cells: int) -> None:
        self.total = cells
        self.note(
            f"run {record.id}: {cells} cell{'' if cells == 1 else 's'} on {record.target.url} "
            f"({record.target.model}), about {_time(cells * self.cell_s)}"
        )

    def cell(self, number: int, name: str) -> None:
        self.number, self.name, self.said = number, name, time.monotonic()

    def live(self, live: Live) -> None:
        if time.monotonic() - self.said >= PLAIN_LINE_S:
            self.said = time.monotonic()
            self.note(self.line(live))

    def line(self, live: Live) -> str:
        """Where the run is: the live P99 is of the last few hundred requests, hence the "~"."""
        left = live.left_s + (self.total - self.number) * self.cell_s
        parts = [f"cell {self.number}/{self.total} {self.name}", live.phase]
        if live.qps is not None:
            parts.append(f"{live.qps:,.0f} QPS" if live.qps >= 100 else f"{live.qps:.1f} QPS")
        if live.p99_ms is not None:
            parts.append(f"P99 ~{live.p99_ms:,.0f} ms")
        parts.append(f"{live.errors:,} error{'' if live.errors == 1 else 's'}")
        return ", ".join([*parts, f"{_time(left)} left"])

    def done(self, cell: Cell) -> None:
        latency = cell.latency_ms
        text = f"[{self.number}/{self.total}] {self.name}: {cell.requests:,} requests, {cell.qps:,.1f} QPS"
        if latency.p50 is not None:
            text += f", P50 {latency.p50:,.1f} ms"
        if latency.p99 is not None:
            text += f", P99 {latency.p99:,.1f} ms"
        failures = sum(cell.errors.values())
        text += f", {failures:,} error{'' if failures == 1 else 's'}"
        self.note(text if cell.state == "done" else f"{text}; {cell.state}: {cell.reason}")


class TerminalView(PlainView):
    """The grid and the present cell, written over; what is said meanwhile stands above."""

    def __init__(self, options: LoadOptions, screen: Any) -> None:
        super().__init__(options)
        self.screen = screen
        self.grid = Grid(options.cells)

    def note(self, line: str) -> None:
        self.screen.console.print(line, markup=False, soft_wrap=True)

    def begins(self, record: RunRecord, cells: int) -> None:
        super().begins(record, cells)
        self.grid.cells = {cell.name: cell for cell in record.cells if cell.stands}

    def cell(self, number: int, name: str) -> None:
        super().cell(number, name)
        if all(point.name != name for point in self.grid.points):  # a search chooses its cells as it goes
            self.grid.points = []
        self.grid.now = name

    def live(self, live: Live) -> None:
        from rich.console import Group
        from rich.text import Text

        left = live.left_s + (self.total - self.number) * self.cell_s
        where = Text(f"cell {self.number}/{self.total} {self.name}, {_time(left)} left", style="dim")
        table = self.grid.table()
        self.screen.update(Group(*([table] if table else []), status(live), where))

    def done(self, cell: Cell) -> None:
        self.grid.cells[cell.name] = cell
        self.grid.now = ""
        super().done(cell)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
