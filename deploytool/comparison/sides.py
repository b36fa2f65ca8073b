"""The two sides of a comparison: runs of the same work, their cells, and the raw samples behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deploytool import samples
from deploytool.errors import BadInput, DeploytoolError
from deploytool.noise import Requests
from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.store import Store

# What makes the work of a run, beside the manifest of its texts.
WORK = ("batch", "concurrency", "rate", "arrivals", "encoding", "duration_s")
COLUMNS = ("cell", "phase", "start_ns", "latency_ns", "error")


class Key(NamedTuple):
    """Which cell of the grid: cells of one key are repeats of one another."""

    mode: str
    batch: int
    load: float  # clients in a closed loop, requests/s in an open one

    def __str__(self) -> str:
        return f"b{self.batch} {'c' if self.mode == 'closed' else 'r'}{self.load:g}"


@dataclass
class Measured:
    """One side: a run, or several runs of the same work that count as repeats."""

    records: list[RunRecord]
    cells: dict[Key, list[Cell]] = field(default_factory=dict)
    flawed: dict[Key, str] = field(default_factory=dict)
    requests: dict[Key, Requests] = field(default_factory=dict)
    unread: str | None = None

    @property
    def first(self) -> RunRecord:
        return self.records[0]


def key_of(cell: Cell) -> Key:
    return Key(cell.mode, cell.batch, float(cell.concurrency if cell.rate is None else cell.rate))


def read_side(store: Store, references: Sequence[str]) -> Measured:
    """The runs and their raw samples. UnknownName; BadInput where they are no repeats of one another.

    Raw samples that are missing or damaged cost the intervals, not the comparison.
    """
    records = [store.run(reference) for reference in references]
    if len(records) == 1:
        records = _series(store, records[0])
    for record in records:
        if record.state == "running":
            raise BadInput(f"run {record.id} is still running", hint="compare it when it has ended")
    for record in records[1:]:
        unlike = same_work(records[0], record)
        if unlike:
            raise BadInput(
                f"runs {records[0].id} and {record.id} are no repeats of one another",
                details=unlike,
                hint="a comma joins repeats; a space separates the runs to compare",
            )
    side = Measured(records)
    for record in records:
        for cell in record.cells:
            why = _flaw(cell)
            if why is None:
                side.cells.setdefault(key_of(cell), []).append(cell)
            else:
                side.flawed.setdefault(key_of(cell), why)
    _read_samples(side, store)
    return side


def _series(store: Store, record: RunRecord) -> list[RunRecord]:
    """The finished runs of a run's series, oldest first; the run alone where it is of none."""
    if record.series is None:
        return [record]
    wanted = record.series.get("id")
    members = [
        other
        for other in store.runs()
        if other.series is not None and other.series.get("id") == wanted and other.state == "finished"
    ]
    return sorted(members, key=_number) or [record]


def _number(record: RunRecord) -> int:
    number: int = (record.series or {}).get("number", 0)
    return number


def _flaw(cell: Cell) -> str | None:
    if wording.counts(cell):
        return None
    reasons = "; ".join(wording.flaw_reasons(cell))
    return f"{wording.flaw(cell) or 'no request was answered'}{f': {reasons}' if reasons else ''}"


def same_work(one: RunRecord, other: RunRecord) -> list[str]:
    """How the work of two runs differs, a line each; none: it is the same."""
    unlike = []
    if one.target.model != other.target.model:
        unlike.append(f"model: {one.target.model} and {other.target.model}")
    for name in WORK:
        was, now = one.request.get(name), other.request.get(name)
        if was != now and (was or now):
            unlike.append(f"{name}: {_shown(was)} and {_shown(now)}")
    if one.manifest is None or other.manifest is None:
        unlike.append("texts: a run without a manifest does not say what it sent")
    elif one.manifest != other.manifest and not any(line.startswith(("batch:", "enc")) for line in unlike):
        unlike.append(f"texts: {_texts(one)} and {_texts(other)}")
    return unlike


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) or "none"
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _texts(record: RunRecord) -> str:
    request = record.request
    parts = [str(request.get("corpus", "unknown corpus")), f"seed {request.get('seed', '?')}"]
    parts += [str(request["text_tokens"])] if request.get("text_tokens") else []
    return f"{', '.join(parts)} ({(record.manifest or '')[:15]})"


def _read_samples(side: Measured, store: Store) -> None:
    """Raw samples of the cells that were measured once; of repeats the scatter itself is the noise."""
    if len(side.records) > 1:
        return
    single = {key: cells[0] for key, cells in side.cells.items() if len(cells) == 1}
    path = store.run_folder(side.first.id) / "samples.parquet"
    if not path.is_file():
        side.unread = f"run {side.first.id} has no raw samples"
        return
    try:
        _sort_in(single, samples.stream(path, COLUMNS), side)
    except DeploytoolError as error:
        side.unread = error.message


def _sort_in(single: dict[Key, Cell], rows: Iterator[dict[str, Any]], side: Measured) -> None:
    by_name = {cell.name: key for key, cell in single.items()}
    found = {key: Requests(window_s=cell.duration_s) for key, cell in single.items()}
    for row in rows:
        key = by_name.get(row["cell"])
        if key is None:
            continue
        start, latency = row["start_ns"] / 1e9, row["latency_ns"] / 1e6
        requests = found[key]
        if row["phase"] != "measure":
            if row["error"] is None:
                requests.beside.append((start, latency))
        elif row["error"] is None:
            requests.start_s.append(start)
            requests.latency_ms.append(latency)
        else:
            requests.failed_s.append(start)
    side.requests = {key: requests for key, requests in found.items() if len(requests)}


def keys(sides: Iterable[Measured]) -> list[Key]:
    """Every cell of any side, in order."""
    return sorted({key for side in sides for key in (*side.cells, *side.flawed)})
