"""The figures of a system's row: how fast it is and what it sustains; or the reason why that is not known."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.bakeoff.config import Bakeoff
from deploytool.bakeoff.facts import facts, size
from deploytool.bakeoff.found import NOTHING_EMBEDDED, Found, no_load, unknown
from deploytool.decision import COLUMNS, Figure
from deploytool.records import Cell, RunRecord
from deploytool.sizing import Found as Searched
from deploytool.thresholds import Threshold

BATCH = 16


def figures(found: Found, config: Bakeoff) -> dict[str, Figure]:
    """All columns of the table."""
    made = {**_speed(found), **_under_slo(found, config), **size(found), **facts(found)}
    return {column.name: made[column.name] for column in COLUMNS}


def _speed(found: Found) -> dict[str, Figure]:
    if found.looked.system.kind == "baseline":
        return {
            "single_text_ms": _word_latency(found),
            "batch16_speedup": unknown(NOTHING_EMBEDDED),
            "texts_per_s": unknown(NOTHING_EMBEDDED),
        }
    if found.load is None:
        reason = no_load(found)
        return {name: unknown(reason) for name in ("single_text_ms", "batch16_speedup", "texts_per_s")}
    cells = [cell for cell in found.load.cells if cell.state == "done" and not _is_void(cell)]
    one = _cell(cells, 1)
    latency = unknown("no load point of batch 1, concurrency 1 counts")
    if one is not None:
        latency = Figure(value=one.latency_ms.p50, reason=_flaw(one))
    best = max(cells, key=lambda cell: cell.texts_per_s, default=None)
    texts = unknown("no load point counts")
    if best is not None:
        texts = Figure(value=best.texts_per_s, reason=_joined(f"at {best.name}", _flaw(best)))
    return {"single_text_ms": latency, "batch16_speedup": _speedup(one, cells), "texts_per_s": texts}


def _speedup(one: Cell | None, cells: Sequence[Cell]) -> Figure:
    many = _cell(cells, BATCH)
    if one is None or many is None or not one.texts_per_s:
        return unknown(f"needs load points of batch 1 and {BATCH}, both with concurrency 1")
    return Figure(value=many.texts_per_s / one.texts_per_s, reason=_flaw(many))


def _cell(cells: Sequence[Cell], batch: int) -> Cell | None:
    return next((cell for cell in cells if (cell.batch, cell.concurrency) == (batch, 1)), None)


def _is_void(cell: Cell) -> bool:
    return cell.validity is not None and cell.validity.verdict == "void"


def _flaw(cell: Cell) -> str | None:
    if cell.validity is None or cell.validity.verdict == "valid":
        return None
    return f"{cell.validity.verdict}: {'; '.join(cell.validity.reasons)}"


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _word_latency(found: Found) -> Figure:
    slowest = max(found.words.values(), key=lambda one: one.p50_ms, default=None)
    if slowest is None:
        return unknown(found.lacking)
    return Figure(value=slowest.p50_ms, reason=f"a whole search of {slowest.n_docs:,} documents")


def _under_slo(found: Found, config: Bakeoff) -> dict[str, Figure]:
    names = ("slo_qps", "slo_p99_ms", "slo_concurrency")
    if config.capacity is None:
        return {name: unknown("no capacity in the file") for name in names}
    if found.looked.system.kind == "baseline":
        return {name: unknown("is not served") for name in names}
    if found.capacity is None:
        rate = p99 = unknown(no_load(found))
    else:
        rate, p99 = rate_in_slo(found.capacity.found)
    clients = unknown(no_load(found))
    if found.load is not None:
        clients = _most_clients(found.load, config.capacity.batch, config.capacity.conditions)
    return {"slo_qps": rate, "slo_p99_ms": p99, "slo_concurrency": clients}


def rate_in_slo(outcome: Searched) -> tuple[Figure, Figure]:
    """The rate in the SLO and P99 there. A search that had no time has shown nothing, not a rate of 0."""
    if not outcome.max_qps:
        lowest = min(outcome.probes, key=lambda probe: probe.rate, default=None)
        breaks = lowest is not None and lowest.ruling == "breaks"
        return Figure(value=0.0 if breaks else None, reason=outcome.reason), unknown(outcome.reason)
    rate = Figure(
        value=outcome.max_qps,
        at_least=not outcome.converged,
        reason=None if outcome.converged else outcome.reason,
    )
    return rate, Figure(value=outcome.p99_ms) if outcome.p99_ms else unknown("too few samples")


def _most_clients(record: RunRecord, batch: int, slo: Sequence[Threshold]) -> Figure:
    """The highest concurrency of the load points that keeps the SLO, up to the first that does not."""
    cells = sorted(
        (cell for cell in record.cells if cell.batch == batch and cell.mode == "closed"),
        key=lambda cell: cell.concurrency,
    )
    most, why = 0, f"no load point has batch {batch}"
    for cell in cells:
        broken = _breaks(cell, slo)
        if broken is not None:
            return (
                Figure(value=most, reason=f"{cell.name}: {broken}")
                if most
                else unknown(f"{cell.name}: {broken}")
            )
        most, why = cell.concurrency, f"{cell.concurrency} was the most that was tried"
    return Figure(value=most, at_least=True, reason=why) if most else unknown(why)


def _breaks(cell: Cell, slo: Sequence[Threshold]) -> str | None:
    """Why a cell is not shown to keep the SLO; None where it keeps it."""
    if cell.state != "done" or _is_void(cell):
        return cell.reason or _flaw(cell) or cell.state
    for condition in slo:
        name, missing = condition.metric.name, "no request was answered"
        if name == "errors":
            failed = sum(cell.errors.values())
            value: float | None = 100 * failed / (cell.requests + failed) if cell.requests + failed else None
        else:
            field = name.replace(".", "")
            value = getattr(cell.latency_ms, field)
            missing = cell.latency_missing.get(field, "not known")
        if value is None:
            return f"{name}: {missing}"
        if not condition.passed_by(value):
            return f"{name} {value:.4g} {condition.unit}, the SLO says {condition.text}"
    return None
