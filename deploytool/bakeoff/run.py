"""A whole bake-off: each system in turn, then one table. It goes on where it was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from deploytool.bakeoff.config import Bakeoff
from deploytool.bakeoff.figures import figures
from deploytool.bakeoff.found import Found
from deploytool.bakeoff.looking import CANNOT_RUN, Looked, look, told
from deploytool.bakeoff.measuring import Measuring, Planned
from deploytool.bakeoff.opening import OpenSet, Surroundings, Target, opened, take_down_left_over
from deploytool.bakeoff.progress import Progress
from deploytool.bakeoff.quality import by_dims, compared
from deploytool.bakeoff.stages import Kept, now
from deploytool.catalog import Catalog
from deploytool.decision import Decision, Row, SetFacts, criteria
from deploytool.deployment.interrupts import interruptible
from deploytool.errors import DeploytoolError, Interrupted
from deploytool.evaluation import EvalRecord
from deploytool.retrieval.sets import open_dataset
from deploytool.store import Store
from deploytool.weighing import rank

GOES_ON = "finished stages are kept: the same command goes on"


def bake_off(
    config: Bakeoff,
    store: Store,
    progress: Progress,
    *,
    catalog: Catalog,
    weights: Mapping[str, float],
    fresh: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Decision:
    """Measure every system and return the table. A system that cannot run or fails has a row that says why.

    `fresh`: nothing that was kept before is used. Raises BadInput and UnknownName for what the file cannot
    mean, Taken where another bake-off is at work; on Ctrl-C what was brought up is down, and KeyboardInterrupt
    or Interrupted goes on.
    """
    kept = Kept(store.folder, fresh=fresh)
    with kept.alone(), interruptible():
        take_down_left_over(store, kept, progress)
        looked = [look(system, store, catalog, environ) for system in config.systems]
        sets = tuple(_open_sets(config, progress))
        around = Surroundings(config, store, catalog, kept, progress, sets, environ)
        found = []
        for number, one in enumerate(looked, 1):
            progress.note(f"[{number}/{len(looked)}] {one.system.name}: {one.what}")
            found.append(_measured(one, around))
    return decide(config, found, sets, weights)


def _open_sets(config: Bakeoff, progress: Progress) -> Iterator[OpenSet]:
    """Every set, read once for its size and fingerprint. Equal names of different folders get their places."""
    labels: set[str] = set()
    for choice in config.datasets:
        progress.note(f"reading {choice.name}")
        dataset = open_dataset(choice.name, choice.split)
        label = dataset.name if choice.split == "test" else f"{dataset.name}/{choice.split}"
        label = label if label not in labels else f"{choice.name}/{choice.split}"
        labels.add(label)
        facts = SetFacts(n_queries=len(dataset.queries), n_docs=len(dataset.documents))
        yield OpenSet(choice.name, choice.split, label, dataset.fingerprint(), facts)


class Outcome:
    """What became of one system: what is kept of it, and why the rest is not there."""

    def __init__(self, found: Found, state: str, reason: str) -> None:
        self.found, self.state, self.reason = found, state, reason


def _measured(looked: Looked, around: Surroundings) -> Outcome:
    """All that is missing of one system is measured; what ends it early is its row's reason."""
    if looked.skip is not None:
        return _outcome(looked, around, [], "skipped", looked.skip)
    if looked.failed is not None:
        return _outcome(looked, around, [], "failed", looked.failed)
    measuring = Measuring(looked, around)
    missing = measuring.missing()
    state, reason = "measured", ""
    _tell_kept(measuring, missing, around)
    try:
        if missing:
            _run(measuring, missing, looked, around)
    except Interrupted:
        raise
    except CANNOT_RUN as error:
        state, reason = "skipped", told(error)
    except DeploytoolError as error:
        state, reason = "failed", told(error)
    except KeyboardInterrupt:
        around.progress.note(f"interrupted; {GOES_ON}")
        raise
    return _outcome(looked, around, measuring.stages(), state, reason)


def _outcome(
    looked: Looked, around: Surroundings, stages: Sequence[Planned], state: str, reason: str
) -> Outcome:
    """What is kept of a system's stages, and its state; said where it was not measured."""
    if reason:
        around.progress.note(f"  {state}: {reason}")
    found = Found(looked, f"{state}: {reason}" if reason else "was not measured")
    for planned in stages:
        stage = around.kept.find(planned.key)
        if stage is not None:
            found.add(stage, planned.dataset)
    return Outcome(found, state, reason)


def _tell_kept(measuring: Measuring, missing: Sequence[Planned], around: Surroundings) -> None:
    todo = {planned.key for planned in missing}
    for planned in measuring.stages():
        stage = around.kept.find(planned.key) if planned.key not in todo else None
        if stage is not None:
            around.progress.note(f"  {planned.words}: kept from {stage.finished_at} (--fresh measures anew)")


def _run(measuring: Measuring, missing: Sequence[Planned], looked: Looked, around: Surroundings) -> None:
    with _target(looked, around) as target:
        for planned in missing:
            around.progress.note(f"  {planned.words} ...")
            measuring.keep(planned, target)


@contextmanager
def _target(looked: Looked, around: Surroundings) -> Iterator[Target | None]:
    if looked.system.kind == "baseline":
        yield None
        return
    with opened(looked, around) as target:
        yield target


def decide(
    config: Bakeoff, outcomes: Sequence[Outcome], sets: Sequence[OpenSet], weights: Mapping[str, float]
) -> Decision:
    """The table of what was found, and the ranking that `weights` give."""
    rows = [_row(outcome, config) for outcome in outcomes]
    for one in sets:
        records = {
            outcome.found.looked.system.name: outcome.found.evals[one.label]
            for outcome in outcomes
            if one.label in outcome.found.evals
        }
        _add_quality(rows, one.label, records)
    done = [row for row in rows if row.state == "measured"]
    ranking = rank(criteria(done), weights) if weights else None
    load = config.load
    return Decision(
        made_at=now(),
        datasets={one.label: one.facts for one in sets},
        slo=config.capacity.slo if config.capacity else None,
        load=f"batch {_listed(load.batch)}, concurrency {_listed(load.concurrency)}, {load.duration_s:g} s each",
        rows=tuple(rows),
        ranking=ranking,
        unrankable=_unrankable(weights, ranking is None),
    )


def _row(outcome: Outcome, config: Bakeoff) -> Row:
    found = outcome.found
    return Row.model_validate(
        {
            "name": found.looked.system.name,
            "kind": found.looked.system.kind,
            "what": found.looked.what,
            "state": outcome.state,
            "reason": outcome.reason or None,
            "figures": figures(found, config),
            "findings": found.findings(),
            "records": found.records(),
            "measured_at": max((stage.finished_at for stage in found.stages), default=None),
        }
    )


def _add_quality(rows: list[Row], label: str, records: Mapping[str, EvalRecord]) -> None:
    quality = compared(records)
    for place, row in enumerate(rows):
        if row.name in quality:
            sizes = by_dims(records[row.name])
            rows[place] = row.model_copy(
                update={
                    "quality": {**row.quality, label: quality[row.name]},
                    "by_dims": {**row.by_dims, label: sizes} if sizes else row.by_dims,
                }
            )


def _unrankable(weights: Mapping[str, float], nothing: bool) -> str | None:
    if not weights or not nothing:
        return None
    return "no two systems know a figure that the weights ask for"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
