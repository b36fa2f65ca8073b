"""What all reports say in the same words: figures with three digits, the verdict, what a cell counts for."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from deploytool.records import Cell, RunRecord

UNKNOWN = "-"
LOOPS = {
    "closed": "closed loop: each client sends its next request when the answer to the last one is there",
    "open": "open loop: requests are due on a schedule, whether or not earlier ones were answered",
}


def figure(value: float | None) -> str:
    """A measured value with three significant digits and grouped thousands; "-" where it is unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    if size >= 99.95 or size == 0:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.0995 else f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """A percentage; "<0.1 %" rather than a zero that is none."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{figure(percent)} %"


def duration(seconds: float | None) -> str:
    """As "43 s", "3 min 24 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def milliseconds(value: float | None) -> str:
    """As "6.20 ms"; from ten seconds on in seconds."""
    if value is not None and math.isfinite(value) and value >= 10_000:
        return f"{figure(value / 1000)} s"
    return f"{figure(value)} ms"


def moment(text: str | None) -> str:
    """An ISO 8601 time as "2026-02-03 10:11 UTC"; what cannot be read is given back as it is."""
    if not text:
        return UNKNOWN
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return plain(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def elapsed_s(record: RunRecord) -> float | None:
    """Seconds from the start of a run to its end; None where it has no end."""
    try:
        start, end = (datetime.fromisoformat(text) for text in (record.started_at, record.finished_at or ""))
        return max(0.0, (end - start).total_seconds())
    except (ValueError, TypeError):
        return None


def plain(text: object) -> str:
    """Text on one line without control characters: an endpoint's words must not steer a terminal."""
    return "".join(
        character
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        else " "
        for character in str(text)
    )


def counted(number: int, noun: str) -> str:
    """As "1 cell", "1,234 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """As "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def label(cell: Cell) -> str:
    return cell.name


def place(cell: Cell) -> str:
    """A cell in words."""
    if cell.rate is not None:
        return f"batch {cell.batch}, {cell.rate:g} requests/s due"
    return f"batch {cell.batch}, concurrency {cell.concurrency}"


def load_of(cell: Cell) -> str:
    """How much was sent, in a table: clients of a closed loop, or the rate of an open one as "50/s"."""
    return str(cell.concurrency) if cell.rate is None else f"{cell.rate:g}/s"


def flaw(cell: Cell) -> str | None:
    """Why a cell's figures are not to be trusted as they stand: its state, or the verdict on its validity."""
    if cell.state != "done":
        return cell.state
    validity = getattr(cell, "validity", None)
    verdict = validity.get("verdict") if isinstance(validity, dict) else getattr(validity, "verdict", None)
    return verdict if verdict in ("void", "suspect") else None


def flaw_reasons(cell: Cell) -> list[str]:
    """The reasons of `flaw`, on one line each."""
    validity = getattr(cell, "validity", None)
    reasons = validity.get("reasons") if isinstance(validity, dict) else getattr(validity, "reasons", None)
    return [plain(reason) for reason in ([cell.reason] if cell.reason else []) + list(reasons or [])]


def notes(cell: Cell) -> list[str]:
    """A cell's notes, without the lack of samples for P99.9: no table shows it."""
    shown = []
    for note in cell.notes:
        text = re.sub(r",? ?P99\.9 \(needs \d+\)", "", plain(note))
        if text != "too few samples for":
            shown.append(text)
    return shown


def counts(cell: Cell) -> bool:
    """Whether a cell may stand for a peak: finished, not void, and something was answered."""
    return cell.state == "done" and flaw(cell) != "void" and cell.requests > 0


def rate(cell: Cell, name: str) -> float | None:
    """A cell's "qps" or "texts_per_s"; None where nothing was measured, which is not a rate of zero."""
    value: float = getattr(cell, name)
    return value if cell.duration_s > 0 else None


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: (cell.batch, cell.concurrency, cell.rate or 0))


def failures(cell: Cell) -> int:
    return sum(cell.errors.values())


def failures_by_class(record: RunRecord) -> dict[str, int]:
    """Errors of all cells by class, most frequent first."""
    total: Counter[str] = Counter()
    for cell in record.cells:
        total.update(cell.errors)
    return {name: number for name, number in total.most_common() if number}


def by_class(errors: dict[str, int]) -> str:
    """As "timeout 3, refused 1"."""
    pairs = sorted(errors.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{plain(name)} {number:,}" for name, number in pairs if number)


def asked_cells(record: RunRecord) -> int:
    """How many cells the run was asked for: its grid, or what it has where no grid was kept."""
    batches, concurrencies = grid(record)
    rates = record.request.get("rate")
    if isinstance(rates, list) and rates:
        return max(len(batches) * len(rates), len(record.cells))
    return max(len(batches) * len(concurrencies), len(record.cells))


def grid(record: RunRecord) -> tuple[list[int], list[int]]:
    """The batch sizes and concurrencies of a run, asked for or measured, in order."""
    asked = record.request.get("grid")
    source = asked if isinstance(asked, dict) else record.request
    found = []
    for name in ("batch", "concurrency"):
        values = source.get(name)
        measured = {getattr(cell, name) for cell in record.cells}
        known = {value for value in values if isinstance(value, int)} if isinstance(values, list) else set()
        found.append(sorted(known | measured))
    return found[0], found[1]


def loads(record: RunRecord) -> list[tuple[float, str]]:
    """What grows along a row of the grid, with how it is written: clients ("c4"), or rates ("50/s")."""
    rates = record.request.get("rate")
    asked = {float(rate) for rate in rates} if isinstance(rates, list) else set()
    measured = {cell.rate for cell in record.cells if cell.rate is not None}
    if asked or measured:
        return [(rate, f"{rate:g}/s") for rate in sorted(asked | measured)]
    return [(concurrency, f"c{concurrency}") for concurrency in grid(record)[1]]


def load_key(cell: Cell) -> float:
    """A cell's place among `loads`."""
    return cell.concurrency if cell.rate is None else cell.rate


def best(cells: Iterable[Cell], name: str) -> Cell | None:
    """The cell with the highest `name` ("qps", "texts_per_s") of those that count."""
    candidates = [cell for cell in cells if counts(cell)]
    return max(candidates, key=lambda cell: getattr(cell, name), default=None)


def tail(cells: Iterable[Cell]) -> str:
    """The highest of P99, P95, P90 that most of the cells with a latency have; P50 where none is so."""
    timed = [cell.latency_ms for cell in cells if cell.latency_ms.p50 is not None]
    for name in ("p99", "p95", "p90"):
        if sum(getattr(latency, name) is not None for latency in timed) * 2 > len(timed):
            return name
    return "p50"


def loop(record: RunRecord) -> str:
    """What made the load: "closed loop", "open loop", or both."""
    modes = sorted({cell.mode for cell in record.cells}) or ["closed"]
    return f"{' and '.join(modes)} loop"


def verdict(record: RunRecord, *, state: bool = True) -> str:
    """The run in one line: "9 cells, 0 errors, peak 61.3 QPS at b1 c16". `state`: say if it was cut short."""
    done = sum(cell.state == "done" for cell in record.cells)
    asked = asked_cells(record)
    cells = counted(done, "cell") if done == asked else f"{done:,} of {counted(asked, 'cell')}"
    if state and record.state != "finished":
        cells += f" ({record.state})"
    errors = counted(sum(failures_by_class(record).values()), "error")
    peak = best(record.cells, "qps")
    speed = f"peak {figure(peak.qps)} QPS at {label(peak)}" if peak else _no_peak(record)
    marked = Counter(kind for cell in record.cells if (kind := flaw(cell)) in ("void", "suspect"))
    doubts = "".join(f", {number} {kind}" for kind, number in sorted(marked.items(), reverse=True))
    return f"{cells}, {errors}{doubts}, {speed}"


def _no_peak(record: RunRecord) -> str:
    answered = any(cell.requests for cell in record.cells)
    return "no cell counts for a peak" if answered else "no request was answered"


def subject(record: RunRecord) -> str:
    """What was measured: model, engine, profile, dtype."""
    target = record.target
    engine = " ".join(plain(part) for part in (target.engine, target.engine_version) if part)
    parts = [f"{plain(target.model)} on {engine}" if engine else plain(target.model)]
    parts += [f"profile {plain(target.profile)}"] if target.profile else []
    parts += [plain(target.dtype)] if target.dtype else []
    parts += [f"revision {plain(target.model_revision)}"] if target.model_revision else []
    return ", ".join(parts)


def where(record: RunRecord) -> str:
    target = record.target
    if target.deployment:
        return f"deployment {plain(target.deployment)} at {plain(target.url)}"
    return plain(target.url)


def memory_columns(cells: Sequence[Cell]) -> tuple[bool, list[str]]:
    """Whether any cell has a VRAM peak, and the distinct reasons of those that have none."""
    has_vram = any(cell.vram_peak_mib is not None for cell in cells)
    reasons = [cell.vram_reason for cell in cells if cell.vram_peak_mib is None and cell.vram_reason]
    return has_vram, [plain(reason) for reason in dict.fromkeys(reasons)]
