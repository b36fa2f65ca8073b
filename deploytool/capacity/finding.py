"""One capacity search from its first request to the plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploytool.benchmark import Progress, run_load
from deploytool.capacity.probing import ProbeRun, load_options
from deploytool.capacity.search import Search
from deploytool.hardware import HardwareProfile
from deploytool.records import RunRecord
from deploytool.reports import wording
from deploytool.schema import Document
from deploytool.sizing import Capacity, Found, Probe, knee, limit_of, plan, served_tokens
from deploytool.store import Store
from deploytool.targets import Resolved
from deploytool.thresholds import Threshold, parse_slo


class CapacityOptions(Document):
    """What is asked of a search. Shares are 0 to 1; `target_qps` is requests/s of `batch` texts each."""

    slo: str
    batch: int = Field(default=1, ge=1, le=4096)
    target_qps: float | None = Field(default=None, gt=0)
    growth: float = Field(default=0.0, ge=0)
    headroom: float = Field(default=0.2, ge=0, lt=1)
    max_duration_s: float = Field(default=600.0, gt=0)
    most_qps: float | None = Field(default=None, gt=0)
    start_qps: float | None = Field(default=None, gt=0)
    precision: float = Field(default=0.04, ge=0.005, le=1)
    encoding: Literal["float", "base64"] = "float"
    corpus: Path | None = None
    text_tokens: str | None = None
    seed: int = 1

    @property
    def conditions(self) -> tuple[Threshold, ...]:
        return parse_slo(self.slo)


def find(
    target: Resolved,
    options: CapacityOptions,
    store: Store,
    progress: Progress,
    *,
    card: HardwareProfile | None = None,
    cards: int | None = None,
    told: Callable[[Probe], None] = lambda _: None,
) -> Capacity:
    """Search and plan. `card` and `cards`: what a replica runs on, as far as known; `told` hears every probe.

    Raises what a load run raises: NotAvailable, BadInput, Unhealthy. Ctrl-C ends the search, not the result.
    """
    started = time.monotonic()
    slo = options.conditions
    found: list[Found] = []

    def drive(run: ProbeRun) -> None:
        run.record.request["capacity"] = options.model_dump(mode="json")
        search = Search(
            measure=run.measure_rate,
            slo=slo,
            seconds_left=lambda: options.max_duration_s - (time.monotonic() - started),
            most_qps=options.most_qps,
            precision=options.precision,
            told=told,
        )
        found.append(search.run(options.start_qps or run.start_rate()))

    def make(*parts: Any) -> ProbeRun:
        return ProbeRun(*parts, slo=slo, drive=drive)

    loading = {name: getattr(options, name) for name in ("encoding", "corpus", "text_tokens", "seed")}
    record = run_load(
        target, load_options({**loading, "batch": (options.batch,)}, slo), store, progress, make=make
    )
    took_s = time.monotonic() - started
    return result(target, options, record, found[0], card, cards, took_s)


def result(
    target: Resolved,
    options: CapacityOptions,
    record: RunRecord,
    found: Found,
    card: HardwareProfile | None,
    cards: int | None,
    took_s: float,
) -> Capacity:
    """The search's outcome with everything that follows from it."""
    limit, why = limit_of(found, card, cards)
    best = found.best
    peaks = [probe.vram_peak_mib for probe in found.probes if probe.vram_peak_mib is not None]
    return Capacity(
        target=target.target,
        model=target.model,
        subject=f"{wording.subject(record)}; {wording.where(record)}",
        profile=card.name if card is not None else record.target.profile,
        slo=tuple(condition.text for condition in options.conditions),
        batch=options.batch,
        run=record.id,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=round(took_s, 1),
        requests=sum(probe.due for probe in found.probes),
        found=found,
        knee_qps=knee(found.probes),
        limit=limit,
        limit_why=why,
        plan=plan(
            found.max_qps,
            options.batch,
            target_qps=options.target_qps,
            growth=options.growth,
            headroom=options.headroom,
            tokens_per_s=served_tokens(found.probes, found.max_qps),
            vram_peak_mib=max(peaks, default=None),
            card=card,
            cards_per_replica=cards,
        ),
        notes=tuple(_notes(found, best)),
    )


def _notes(found: Found, best: Probe | None) -> list[str]:
    """What a reader must know who signs the plan."""
    notes = []
    if best is not None and "to be sure" in best.why:
        notes.append(f"the sample is too small to be sure of the errors: {best.why}")
    if found.max_qps and found.high is None:
        notes.append(f"at least {found.max_qps:g}/s: {found.reason}")
    elif not found.converged:
        notes.append(f"not converged: {found.reason}")
    return notes
