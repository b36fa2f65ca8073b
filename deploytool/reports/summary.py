"""What a run means, in plain sentences that each follow from its figures."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.reports.wording import counted, figure, milliseconds, place, share

KEPT_UP = 0.98  # of the rate that was due, as in the verdict on a cell
NEAR_PEAK = 0.95  # a batch size is saturated where fewer clients already reach this share of its throughput


def sentences(record: RunRecord) -> list[str]:
    """The findings of a run, the most important first. A run with no answer says only that."""
    counted_cells = [cell for cell in wording.in_order(record.cells) if wording.counts(cell)]
    nothing = "No cell counts." if any(cell.requests for cell in record.cells) else "No request was answered."
    found = [_state(record), *(_speed(counted_cells) if counted_cells else [nothing])]
    found += [_saturation(counted_cells), _batching(counted_cells), _errors(record), _memory(record)]
    if counted_cells and wording.loop(record) == "closed loop":
        found.append(
            "These are closed-loop figures: a slow answer holds back its client's next request, so they say "
            "what a fixed number of clients gets, not what a fixed rate of arrivals would see."
        )
    return [sentence for sentence in found if sentence]


def _state(record: RunRecord) -> str | None:
    asked, done = wording.asked_cells(record), sum(cell.state == "done" for cell in record.cells)
    marked = [cell for cell in record.cells if wording.flaw(cell) in ("void", "suspect")]
    why = f" ({wording.plain(record.reason)})" if record.reason else ""
    parts = []
    if record.state in ("interrupted", "failed"):
        parts.append(
            f"The run was not completed: {record.state}{why}. {done} of {counted(asked, 'cell')} finished."
        )
    elif record.state == "running":
        parts.append(f"The run goes on: {done} of {counted(asked, 'cell')} have finished so far.")
    elif done < asked:
        parts.append(f"{done} of {counted(asked, 'cell')} finished.")
    if marked:
        kinds = [f"{wording.label(cell)} ({wording.flaw(cell)})" for cell in marked]
        parts.append(f"Not to be relied on: {wording.listed(kinds)}; void cells count for nothing below.")
    return " ".join(parts) or None


def _speed(cells: Sequence[Cell]) -> list[str | None]:
    most = max(cells, key=lambda cell: cell.texts_per_s)
    lowest = min(cells, key=lambda cell: (cell.batch * cell.concurrency, cell.batch))
    found: list[str | None] = [
        f"Most throughput: {figure(most.texts_per_s)} texts/s ({figure(most.qps)} QPS) at {place(most)}; "
        f"there, {_latencies(most)}."
    ]
    if lowest is not most:
        what = (
            "A single text sent alone"
            if lowest.batch == lowest.concurrency == 1
            else f"At {place(lowest)}, one"
        )
        found.append(f"{what} took {milliseconds(lowest.latency_ms.p50)} in the median.")
    return found


def _latencies(cell: Cell) -> str:
    p50, p99 = cell.latency_ms.p50, cell.latency_ms.p99
    half = f"half of the requests were answered within {milliseconds(p50)}"
    if p99 is None:
        return f"{half} (too few requests for a P99)"
    return f"{half} and 99 of 100 within {milliseconds(p99)}"


def _saturation(cells: Sequence[Cell]) -> str | None:
    """Where more clients bring next to nothing, for the batch size with the most throughput."""
    if not cells:
        return None
    batch = max(cells, key=lambda cell: cell.texts_per_s).batch
    row = [cell for cell in cells if cell.batch == batch]
    if any(cell.rate is not None for cell in row):
        return _kept_up(batch, row)
    peak = max(cell.texts_per_s for cell in row)
    knee = next(cell for cell in row if cell.texts_per_s >= NEAR_PEAK * peak)
    last = row[-1]
    if len(row) < 2:
        return None
    if knee is last:
        return (
            f"At batch {batch} throughput still grew up to concurrency {last.concurrency}, the most that was "
            "tried: the server may have more to give."
        )
    few = "1 client reaches" if knee.concurrency == 1 else f"{knee.concurrency} clients reach"
    text = f"At batch {batch}, {few} what the server can give"
    if last.latency_ms.p50 and knee.latency_ms.p50 and last.latency_ms.p50 > 1.2 * knee.latency_ms.p50:
        times = last.latency_ms.p50 / knee.latency_ms.p50
        text += f"; with {last.concurrency}, a request takes {figure(times)} times as long in the median"
    return text + "."


def _kept_up(batch: int, row: Sequence[Cell]) -> str | None:
    """Up to which rate an open loop was answered, and what came of the next one."""
    ordered = sorted(row, key=lambda cell: cell.rate or 0)
    kept = [cell for cell in ordered if cell.rate and cell.qps >= KEPT_UP * (cell.due_rate or cell.rate)]
    behind = next((cell for cell in ordered if cell not in kept), None)
    if behind is None:
        return (
            f"At batch {batch} the server kept up with every rate that was tried: it may have more to give."
        )
    said = f"with {kept[-1].rate:g} requests/s" if kept else "with no rate that was tried"
    return (
        f"At batch {batch} the server kept up {said}; of {behind.rate:g} that were due a second it answered "
        f"{figure(behind.qps)}."
    )


def _batching(cells: Sequence[Cell]) -> str | None:
    """What larger requests bring at the same number of clients. In an open loop the rate is given."""
    cells = [cell for cell in cells if cell.rate is None]
    for concurrency in sorted({cell.concurrency for cell in cells}, reverse=True):
        row = [cell for cell in cells if cell.concurrency == concurrency]
        if len(row) > 1:
            small, large = row[0], max(row, key=lambda cell: cell.texts_per_s)
            if large is small:
                return f"Larger batches brought no throughput at concurrency {concurrency}."
            return (
                f"At concurrency {concurrency}, requests of {large.batch} texts embed "
                f"{figure(large.texts_per_s / small.texts_per_s)} times as many texts per second as requests "
                f"of {small.batch}."
            )
    return None


def _errors(record: RunRecord) -> str | None:
    errors = wording.failures_by_class(record)
    failed, answered = sum(errors.values()), sum(cell.requests for cell in record.cells)
    if not failed:
        return f"All {answered:,} measured requests were answered." if answered else None
    worst = max(record.cells, key=wording.failures)
    return (
        f"{failed:,} of {failed + answered:,} measured requests failed ({share(failed, failed + answered)}): "
        f"{wording.by_class(errors)}. Most of them at {place(worst)}."
    )


def _memory(record: RunRecord) -> str | None:
    known = [cell for cell in record.cells if cell.vram_peak_mib is not None]
    if known:
        top = max(known, key=lambda cell: cell.vram_peak_mib or 0.0)
        return f"The card's memory peaked at {figure(top.vram_peak_mib)} MiB, at {place(top)}."
    known = [cell for cell in record.cells if cell.rss_peak_mib is not None]
    if not known:
        return None
    top = max(known, key=lambda cell: cell.rss_peak_mib or 0.0)
    peak = figure(top.rss_peak_mib)
    return f"The server's processes used at most {peak} MiB of memory (RSS), at {place(top)}."
