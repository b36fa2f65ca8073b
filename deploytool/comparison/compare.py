"""Differences of two sides, cell by cell, with intervals; and whether conditions on them are met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploytool.compared import CellDifference, Comparison, Side
from deploytool.comparison.figures import Judge, metrics_of
from deploytool.comparison.ruling import rule
from deploytool.comparison.sides import Key, Measured, keys, same_work
from deploytool.errors import BadInput
from deploytool.records import RunRecord
from deploytool.reports import wording
from deploytool.thresholds import Threshold

CONFIDENCE = 0.95
BETWEEN_RUNS_PERCENT = 3.0
LEAST_FREEDOM = 2  # below it Student's t says nothing that is of use


def compare(
    baseline: Measured,
    current: Measured,
    thresholds: Sequence[Threshold] = (),
    *,
    force: bool = False,
    between_percent: float = BETWEEN_RUNS_PERCENT,
) -> Comparison:
    """Compare `current` with `baseline`.

    `between_percent`: how far two runs of the same may be apart in 19 of 20 cases; used where the runs hold
    no repeats that tell it.

    Raises BadInput where they did unlike work (not with `force`) or have no cell in common.
    """
    unlike = same_work(baseline.first, current.first)
    if unlike and not force:
        raise BadInput(
            f"runs {baseline.first.id} and {current.first.id} did not do the same work",
            details=unlike,
            hint="load the second target with the options of the first, or --force compares them anyway",
        )
    shared = [key for key in keys((baseline, current)) if key in baseline.cells and key in current.cells]
    if not shared and not (baseline.cells.keys() & current.flawed.keys()):
        raise BadInput(
            f"runs {baseline.first.id} and {current.first.id} have no cell in common that can be compared",
            details=_cells_told(baseline, current),
            hint="deploytool runs show RUN says what was measured",
        )
    judge = Judge(baseline, current, shared, between_percent, LEAST_FREEDOM)
    figures = max(1, sum(len(metrics_of(baseline.cells[key], current.cells[key])) for key in shared))
    each = 1 - (1 - CONFIDENCE) / figures  # Bonferroni: all intervals together
    cells = tuple(_cell(key, baseline, current, judge, each) for key in keys((baseline, current)))
    return Comparison(
        baseline=_side(baseline),
        current=_side(current),
        unlike=tuple(unlike),
        changed=tuple(changes(baseline.first, current.first)),
        warnings=tuple(_warnings(baseline, current, judge)),
        confidence=CONFIDENCE,
        each=each,
        noise=judge.noise,
        cells=cells,
        judged=tuple(rule(cells, thresholds)),
    )


def _cell(key: Key, baseline: Measured, current: Measured, judge: Judge, each: float) -> CellDifference:
    before, after = baseline.cells.get(key, []), current.cells.get(key, [])
    common = {"cell": str(key), "batch": key.batch}
    if before and after:
        return CellDifference(
            **common,
            baseline_repeats=len(before),
            current_repeats=len(after),
            figures=tuple(judge.figure(metric, key, each) for metric in metrics_of(before, after)),
        )
    why = [
        f"{side.first.id}: {side.flawed.get(key, 'not measured')}"
        for side in (baseline, current)
        if key not in side.cells
    ]
    return CellDifference(**common, excluded="; ".join(why), lost=bool(before) and not _is_void(current, key))


def _is_void(side: Measured, key: Key) -> bool:
    """A void cell says that the measurement was at fault, not the target."""
    return side.flawed.get(key, "").startswith("void")


def _side(side: Measured) -> Side:
    return Side(
        runs=tuple(record.id for record in side.records),
        subject=f"{wording.subject(side.first)}; {wording.where(side.first)}",
        started_at=side.first.started_at,
    )


def changes(before: RunRecord, after: RunRecord) -> list[str]:
    """What is another one now: engine, version, dtype, card, and the rest that a record knows."""
    found = []
    for name in ("engine", "engine_version", "profile", "dtype", "model_revision", "deployment", "url"):
        was, now = getattr(before.target, name), getattr(after.target, name)
        if was != now:
            found.append(f"{name}: {was or 'unknown'} -> {now or 'unknown'}")
    was, now = _cards(before.environment), _cards(after.environment)
    return [*found, f"cards: {was} -> {now}"] if was != now else found


def _cards(environment: dict[str, Any]) -> str:
    cards = environment.get("gpus")
    names = [str(card.get("name")) for card in cards if isinstance(card, dict)] if cards else []
    return ", ".join(names) or "none"


def _warnings(baseline: Measured, current: Measured, judge: Judge) -> list[str]:
    found = []
    for side in (baseline, current):
        for record in side.records:
            if record.state != "finished":
                found.append(f"run {record.id} is {record.state}: {record.reason or 'no reason is known'}")
        if side.unread:
            found.append(f"{side.unread}: no noise within it is known, only the noise between runs")
    clients = [_client(side.first.environment) for side in (baseline, current)]
    if None not in clients and clients[0] != clients[1]:
        found.append(f"the load came from unlike machines: {clients[0]} and {clients[1]}")
    for name in ("warmup_s", "timeout_s"):
        was, now = baseline.first.request.get(name), current.first.request.get(name)
        if was != now:
            found.append(f"{name} was {was} and is {now}")
    if not judge.repeated:
        found.append("no repeats: two runs may differ more than one run shows; --repeats 3 tells")
    return found


def _client(environment: dict[str, Any]) -> str | None:
    processor = environment.get("cpu")
    if not isinstance(processor, dict):
        return None
    return f"{processor.get('model') or 'unknown processor'}, {processor.get('usable_threads')} threads"


def _cells_told(baseline: Measured, current: Measured) -> list[str]:
    lines = []
    for side in (baseline, current):
        good = ", ".join(map(str, sorted(side.cells))) or "none"
        bad = "".join(f"; {key}: {why}" for key, why in sorted(side.flawed.items()))
        lines.append(f"{side.first.id}: {good}{bad}")
    return lines
