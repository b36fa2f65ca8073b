"""The stages of one system: load, capacity, quality on each data set. Each is kept as soon as it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deploytool import capacity
from deploytool.bakeoff.looking import Looked
from deploytool.bakeoff.opening import NOT_OURS, OpenSet, Surroundings, Target
from deploytool.bakeoff.stages import Stage, StageName, key_of, now
from deploytool.bakeoff.words import measure_words
from deploytool.benchmark import run_load
from deploytool.errors import BadInput, NotAvailable, Unhealthy
from deploytool.evaluation import EvalOptions, evaluate
from deploytool.evaluation.systems import Served
from deploytool.hardware import HardwareProfile
from deploytool.records import PhaseMemory, RunRecord

Result = Mapping[str, Any]
PHASE = "stage"
START_SHARE = 0.5  # of the highest rate of the load points whose median is within the SLO
PROBE_TEXT = "How wide is a vector?"


@dataclass(frozen=True)
class Planned:
    """A stage to come. `run` takes the open system; a baseline's has none."""

    stage: StageName
    key: str
    run: Callable[[Target | None], Result]
    dataset: str | None = None

    @property
    def words(self) -> str:
        return f"{self.stage} {self.dataset}" if self.dataset else self.stage


class Measuring:
    """What one system is measured by, in order."""

    def __init__(self, looked: Looked, around: Surroundings) -> None:
        self.looked, self.around = looked, around
        self.system, self.config = looked.system, around.config

    def stages(self) -> list[Planned]:
        if self.system.kind == "baseline":
            return [
                stage
                for one in self.around.sets
                for stage in (self._eval_stage(one), self._search_stage(one))
            ]
        return [*self._load_stages(), *(self._eval_stage(one) for one in self.around.sets)]

    def missing(self) -> list[Planned]:
        return [stage for stage in self.stages() if self.around.kept.find(stage.key) is None]

    def keep(self, planned: Planned, target: Target | None) -> None:
        """Run one stage, its memory sampled beside it."""
        started = time.perf_counter()
        with _sampled(target) as peak:
            result = planned.run(target)
        stage = Stage(
            key=planned.key,
            stage=planned.stage,
            system=self.system.name,
            dataset=planned.dataset,
            finished_at=now(),
            seconds=time.perf_counter() - started,
            rss_peak_mib=peak[0].rss_peak_mib,
            vram_peak_mib=peak[0].vram_peak_mib,
            memory_reason=peak[0].vram_reason,
            result={**result, "findings_of_proof": list(target.findings) if target else []},
        )
        self.around.kept.keep(stage)

    def _load_stages(self) -> list[Planned]:
        if not self.system.load or self.system.kind == "hosted":
            return []
        load = {"system": self.looked.depends_on, "load": self.config.load.request()}
        stages = [Planned("load", key_of("load", load), self._load)]
        asked = self.config.capacity
        if asked is not None:
            key = key_of(
                "capacity", {"system": self.looked.depends_on, "capacity": asked.model_dump(mode="json")}
            )
            stages.append(Planned("capacity", key, lambda target: self._capacity(asked, target)))
        return stages

    def _eval_stage(self, one: OpenSet) -> Planned:
        system = self.system
        depends_on = {
            "system": self.looked.depends_on,
            "set": one.fingerprint,
            "dims": [system.dims, *self.config.evaluation.dims] if system.kind != "baseline" else None,
            "prompts": [system.task, system.query_prompt, system.document_prompt],
            "language": system.language,
        }
        key = key_of("eval", depends_on)
        return Planned("eval", key, lambda target: self._eval(one, target), one.label)

    def _search_stage(self, one: OpenSet) -> Planned:
        depends_on = {
            "system": self.looked.depends_on,
            "set": one.fingerprint,
            "language": self.system.language,
        }
        method = str(self.system.baseline)

        def run(_: Target | None) -> Result:
            found = measure_words(method, one.name, one.split, self.system.language)
            return found.model_dump(mode="json")

        return Planned("search", key_of("search", depends_on), run, one.label)

    def _load(self, target: Target | None) -> Result:
        options = self.config.load
        resolved = _open(target).resolved
        with self.around.progress.loading(options) as view:
            record = run_load(resolved, options, self.around.store, view)
        if record.state == "interrupted":
            raise KeyboardInterrupt
        if record.state != "finished":
            raise Unhealthy(
                f"the load ended early: {record.reason}", hint=f"deploytool runs show {record.id}"
            )
        return record.model_dump(mode="json")

    def _capacity(self, asked: capacity.CapacityOptions, target: Target | None) -> Result:
        found = _open(target)
        card, cards = self._hardware(found)
        view, hears = self.around.progress.searching()
        if asked.start_qps is None:
            asked = asked.model_copy(update={"start_qps": self._start_qps(asked)})
        result = capacity.find(
            found.resolved, asked, self.around.store, view, card=card, cards=cards, told=hears
        )
        if result.found.reason == "interrupted":
            raise KeyboardInterrupt
        if result.found.gone:
            raise Unhealthy(result.found.reason)
        return result.model_dump(mode="json")

    def _start_qps(self, asked: capacity.CapacityOptions) -> float | None:
        """A rate near the answer, by what the load stage has shown: the search doubles from it."""
        kept = self.around.kept.find(self._load_stages()[0].key)
        if kept is None:
            return None
        limit_ms = min((one.amount for one in asked.conditions if one.unit == "ms"), default=math.inf)
        rates = [
            cell.qps
            for cell in RunRecord.model_validate(kept.result).cells
            if cell.batch == asked.batch and cell.qps and (cell.latency_ms.p50 or math.inf) <= limit_ms
        ]
        return float(f"{START_SHARE * max(rates):.3g}") if rates else None

    def _hardware(self, found: Served) -> tuple[HardwareProfile | None, int | None]:
        """The profile that it runs on and how many cards of it; None where that is not known."""
        deployment = found.resolved.deployment
        if deployment is None:
            return None, None
        try:
            card = self.around.catalog.hardware(deployment.profile)
        except (BadInput, NotAvailable):
            return None, None
        return card, len(deployment.launch.devices) or 1 if card.kind == "gpu" else None

    def _eval(self, one: OpenSet, target: Target | None) -> Result:
        system, how = self.system, self.config.evaluation
        options = EvalOptions(
            target=target.served.target if target else system.subject,
            dataset=one.name,
            split=one.split,
            dims=self._sizes(target) if target else (),
            task=system.task,
            query_prompt=system.query_prompt,
            document_prompt=system.document_prompt,
            language=system.language,
            model=system.card,
            api_key_file=system.api_key_file,
            batch=how.batch,
            concurrency=how.concurrency,
            timeout_s=how.timeout_s,
            max_usd=how.max_usd if system.kind == "hosted" else None,
            profiles_dir=self.around.catalog.profiles_dir,
        )
        around = self.around
        with around.progress.evaluating() as progress:
            record = evaluate(options, around.store, progress, environ=around.environ)
        return record.model_dump(mode="json")

    def _sizes(self, target: Target) -> tuple[int, ...]:
        """The size that counts first, then the smaller ones of the file."""
        first = self.system.dims or _width(target.served)
        smaller = [size for size in self.config.evaluation.dims if size < first]
        if smaller:
            return (first, *smaller)
        return (first,) if self.system.dims else ()


def _open(target: Target | None) -> Served:
    if target is None:
        raise RuntimeError("a word-matching baseline has no address")
    return target.served


def _width(found: Served) -> int:
    """Numbers in a vector: as the card says, else as the server gives it."""
    if found.card is not None and found.card.dimensions is not None:
        return found.card.dimensions
    with found.resolved.client() as client:
        return len(client.embed(PROBE_TEXT).vectors[0])


@contextmanager
def _sampled(target: Target | None) -> Iterator[list[PhaseMemory]]:
    """The peak within, as the list's one entry afterwards."""
    sampler = target.sampler() if target else None
    found = [PhaseMemory(phase=PHASE, vram_reason=NOT_OURS)]
    if sampler is None:
        yield found
        return
    sampler.start(PHASE)
    try:
        yield found
    finally:
        sampler.stop()
    found[0] = sampler.peak(PHASE)
