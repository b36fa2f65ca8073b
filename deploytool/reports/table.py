"""A run as a table for the terminal: every cell on one line, what needs explaining once below."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.reports.wording import figure, plain

NARROWEST = 60


@dataclass(frozen=True)
class Column:
    """One column: its heading (long, short), its unit, what it shows of a cell, whether it can be spared."""

    long: str
    short: str
    unit: str
    show: Callable[[Cell], str]
    spare: int = 0  # 1 is left out first on a narrow terminal; 0 never


def _whole(value: int) -> str:
    return f"{value:,}"


COLUMNS: tuple[Column, ...] = (
    Column("batch", "batch", "", lambda cell: str(cell.batch)),
    Column("concurrency", "conc.", "", wording.load_of),
    Column("requests", "reqs", "", lambda cell: _whole(cell.requests)),
    Column("errors", "errs", "", lambda cell: _whole(wording.failures(cell))),
    Column("QPS", "QPS", "", lambda cell: figure(wording.rate(cell, "qps"))),
    Column("texts/s", "texts/s", "", lambda cell: figure(wording.rate(cell, "texts_per_s"))),
    Column("P50", "P50", "ms", lambda cell: figure(cell.latency_ms.p50)),
    Column("P90", "P90", "ms", lambda cell: figure(cell.latency_ms.p90), spare=2),
    Column("P95", "P95", "ms", lambda cell: figure(cell.latency_ms.p95), spare=1),
    Column("P99", "P99", "ms", lambda cell: figure(cell.latency_ms.p99)),
    Column("max", "max", "ms", lambda cell: figure(cell.latency_ms.max)),
)
RATE = Column("rate", "rate", "", wording.load_of)
VRAM = Column("VRAM peak", "VRAM", "MiB", lambda cell: figure(cell.vram_peak_mib))
RSS = Column("RSS peak", "RSS", "MiB", lambda cell: figure(cell.rss_peak_mib))


def columns_for(cells: Sequence[Cell]) -> tuple[Column, ...]:
    """The columns of a run's table: with the card's memory where any cell has it, else the processes'."""
    columns = COLUMNS
    if cells and all(cell.rate is not None for cell in cells):
        columns = tuple(RATE if column.long == "concurrency" else column for column in COLUMNS)
    if wording.memory_columns(cells)[0]:
        return (*columns, VRAM)
    return (*columns, RSS) if any(cell.rss_peak_mib is not None for cell in cells) else columns


def render(record: RunRecord, *, width: int | None = None) -> str:
    """The run as text for a terminal of `width` columns (None: as wide as the terminal is, 120 in a pipe)."""
    columns = max(NARROWEST, width or shutil.get_terminal_size((120, 24)).columns)
    notes = Notes()
    body, left_out = _grid(record, columns, notes)
    lines = [
        *_wrapped(f"{wording.subject(record)}; {wording.where(record)}", columns),
        *_wrapped(heading(record), columns),
        *_wrapped(wording.verdict(record), columns),
    ]
    if body:
        lines += ["", *body]
    lines.append("")
    for line in [*remarks(record), *left_out, *notes.lines()]:
        lines += _wrapped(line, columns)
    return "\n".join(lines) + "\n"


class Notes:
    """Footnotes, each text once, numbered in the order in which it was first needed."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, cell: Cell) -> str:
        """What stands in a cell's last column: its flaw and the numbers of its footnotes."""
        flaw = wording.flaw(cell)
        texts = [f"{flaw}: {reason}" for reason in wording.flaw_reasons(cell)] if flaw else []
        texts += wording.notes(cell)
        numbers = sorted({self._numbers.setdefault(text, len(self._numbers) + 1) for text in texts})
        marks = [flaw] if flaw else []
        return " ".join([*marks, *(f"[{number}]" for number in numbers)])

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._numbers.items()]


def heading(record: RunRecord) -> str:
    """Which run, when, how long, in which state."""
    parts = [f"run {plain(record.id)}", wording.moment(record.started_at)]
    seconds = wording.elapsed_s(record)
    parts += [wording.duration(seconds)] if seconds is not None else []
    parts.append(f"{record.state}: {plain(record.reason)}" if record.reason else record.state)
    return ", ".join(parts)


def remarks(record: RunRecord) -> list[str]:
    """What a reader must know about the figures, each once."""
    lines = []
    for mode in sorted({cell.mode for cell in record.cells}) or ["closed"]:
        lines.append(f"{wording.LOOPS[mode]}. {window(record)}".strip())
    cells = record.cells
    if any(cell.requests and cell.latency_ms.p99 is None and not cell.notes for cell in cells):
        lines.append("A latency shown as - had too few samples for that percentile.")
    if any("p99" in cell.latency_missing for cell in cells):
        lines.append(
            "P99 is told from 368 samples on, with its interval; P95 stands for less. --min-samples 368 "
            "measures a cell until it has them."
        )
    lines += calibration(cells)
    if RSS in columns_for(cells):
        lines.append("RSS peak: memory of the server's processes and their children.")
    lines += [f"No VRAM figure: {reason}" for reason in wording.memory_columns(cells)[1]]
    errors = wording.failures_by_class(record)
    if errors:
        lines.append(f"errors: {wording.by_class(errors)}")
    return lines


def calibration(cells: Sequence[Cell]) -> list[str]:
    """What the load generator reached at a server that only sends bytes, and what it adds to a latency."""
    found = [cell.null for cell in cells if cell.null is not None]
    if not found:
        return []
    added = [null.added_ms for null in found if null.added_ms is not None]
    said = f"The load generator reaches {figure(min(null.ceiling_qps for null in found))} QPS or more"
    adds = f", and adds {figure(max(added))} ms at most (P50 of one client)" if added else ""
    return [f"{said} at a server that only sends bytes, with the same clients and answer sizes{adds}."]


def window(record: RunRecord) -> str:
    """What the latencies are over."""
    text = "Latency in ms over the successful requests of the measured window"
    seconds, warmup = record.request.get("duration_s"), record.request.get("warmup_s")
    if isinstance(seconds, (int, float)):
        text += f" ({wording.duration(seconds)}"
        text += f" after {wording.duration(warmup)} of warm-up)" if isinstance(warmup, (int, float)) else ")"
    return text + "."


def _grid(record: RunRecord, width: int, notes: Notes) -> tuple[list[str], list[str]]:
    """The table's lines in the roomiest layout that fits, and a line that says what was left out."""
    cells = wording.in_order(record.cells)
    if not cells:
        return [], []
    marks = [notes.mark(cell) for cell in cells]
    every = columns_for(cells)
    lines: list[str] = []
    kept: Sequence[Column] = every
    for dropped, short, gap in ((0, False, 2), (0, True, 2), (0, True, 1), (1, True, 1), (2, True, 1)):
        kept = [column for column in every if not 0 < column.spare <= dropped]
        lines = _set(cells, kept, marks, short=short, gap=" " * gap)
        if max(map(len, lines)) <= width:
            break
    gone = [column.long for column in every if column not in kept]
    if not gone:
        return lines, []
    return lines, [f"{wording.listed(gone)} left out: the terminal is {width} columns wide."]


def _set(
    cells: Sequence[Cell], columns: Sequence[Column], marks: Sequence[str], *, short: bool, gap: str
) -> list[str]:
    heads = [column.short if short else column.long for column in columns]
    units = [column.unit for column in columns]
    rows = [[column.show(cell) for column in columns] for cell in cells]
    widths = [max(map(len, texts)) for texts in zip(heads, units, *rows, strict=True)]
    ends = ["note" if any(marks) else "", "", *marks]
    lines = []
    for texts, end in zip([heads, units, *rows], ends, strict=True):
        cells_set = [text.rjust(size) for text, size in zip(texts, widths, strict=True)]
        lines.append(gap.join([*cells_set, end]).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    whole = re.sub(r"(\d) (?=[a-z])", "\\1\xa0", text)  # a figure and its unit stay on one line
    lines = textwrap.wrap(whole, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    return [line.replace("\xa0", " ") for line in lines]
