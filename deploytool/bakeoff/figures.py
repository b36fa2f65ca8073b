"""From the kept stages of a system to its row: every figure, or the reason why it is not known."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploytool import model_files
from deploytool.bakeoff.config import Bakeoff
from deploytool.bakeoff.looking import Looked
from deploytool.bakeoff.stages import Stage
from deploytool.bakeoff.words import WordSearch
from deploytool.decision import COLUMNS, Figure
from deploytool.errors import DeploytoolError
from deploytool.evaluation import EvalRecord
from deploytool.records import Cell, RunRecord
from deploytool.retrieval.lexical import PACKAGES
from deploytool.sizing import Capacity
from deploytool.thresholds import Threshold
from deploytool.wire.addresses import BaseUrl

MIB = 1024 * 1024
FLOAT32 = 4
MILLION = 1_000_000
BATCH = 16
NOTHING_EMBEDDED = "nothing is embedded: words are matched"


@dataclass
class Found:
    """What is kept of one system. `lacking`: why a stage that is not there is not there."""

    looked: Looked
    lacking: str
    load: RunRecord | None = None
    capacity: Capacity | None = None
    evals: dict[str, EvalRecord] = field(default_factory=dict)
    words: dict[str, WordSearch] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)

    def add(self, stage: Stage, dataset: str | None) -> None:
        self.stages.append(stage)
        if stage.stage == "load":
            self.load = RunRecord.model_validate(stage.result)
        elif stage.stage == "capacity":
            known = {name: stage.result[name] for name in Capacity.model_fields if name in stage.result}
            self.capacity = Capacity.model_validate(known)
        elif stage.stage == "eval" and dataset is not None:
            self.evals[dataset] = EvalRecord.model_validate(stage.result)
        elif stage.stage == "search" and dataset is not None:
            self.words[dataset] = WordSearch.model_validate(stage.result)

    def findings(self) -> tuple[str, ...]:
        said = [line for stage in self.stages for line in stage.result.get("findings_of_proof") or ()]
        said += [line for record in self.evals.values() for line in record.findings]
        said += list(self.capacity.notes) if self.capacity else []
        return tuple(dict.fromkeys(said))

    def records(self) -> dict[str, str]:
        named = {"load": self.load.id} if self.load else {}
        if self.capacity and self.capacity.run:
            named["capacity"] = self.capacity.run
        return named | {f"eval {name}": record.id for name, record in self.evals.items()}


def figures(found: Found, config: Bakeoff) -> dict[str, Figure]:
    """All columns of the table."""
    made = {**_speed(found), **_under_slo(found, config), **_size(found), **_facts(found)}
    return {column.name: made[column.name] for column in COLUMNS}


def unknown(reason: str) -> Figure:
    return Figure(reason=reason)


def _no_load(found: Found) -> str:
    system = found.looked.system
    if system.kind == "hosted":
        return "a hosted API is not loaded: it costs money, and its rate is its contract's"
    return "load: false in the file" if not system.load else found.lacking


def _speed(found: Found) -> dict[str, Figure]:
    if found.looked.system.kind == "baseline":
        return {
            "single_text_ms": _word_latency(found),
            "batch16_speedup": unknown(NOTHING_EMBEDDED),
            "texts_per_s": unknown(NOTHING_EMBEDDED),
        }
    if found.load is None:
        reason = _no_load(found)
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
        rate = p99 = unknown(_no_load(found))
    else:
        rate, p99 = _rate(found.capacity)
    clients = unknown(_no_load(found))
    if found.load is not None:
        clients = _most_clients(found.load, config.capacity.batch, config.capacity.conditions)
    return {"slo_qps": rate, "slo_p99_ms": p99, "slo_concurrency": clients}


def _rate(capacity: Capacity) -> tuple[Figure, Figure]:
    """The rate in the SLO and P99 there. A search that had no time has shown nothing, not a rate of 0."""
    outcome = capacity.found
    if not outcome.max_qps:
        tried = any(probe.ruling == "breaks" for probe in outcome.probes)
        return Figure(value=0.0 if tried else None, reason=outcome.reason), unknown(outcome.reason)
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


def _size(found: Found) -> dict[str, Figure]:
    if found.looked.system.kind == "baseline":
        nothing = unknown(NOTHING_EMBEDDED)
        return {
            "memory_peak_mib": _word_memory(found),
            "model_mib": unknown("has no model"),
            "dims": nothing,
            "bytes_per_vector": nothing,
            "index_mib_per_1m": _word_index(found),
        }
    dims = next((record.dims for record in found.evals.values() if record.dims), None)
    made = {"memory_peak_mib": _memory(found), "model_mib": _model(found)}
    if dims is None:
        reason = found.lacking
        return made | {name: unknown(reason) for name in ("dims", "bytes_per_vector", "index_mib_per_1m")}
    return made | {
        "dims": Figure(value=dims),
        "bytes_per_vector": Figure(value=dims * FLOAT32),
        "index_mib_per_1m": Figure(value=dims * FLOAT32 * MILLION / MIB),
    }


def _memory(found: Found) -> Figure:
    """The peak over all stages: of the cards where there are any, else of the processes."""
    vram = [stage.vram_peak_mib for stage in found.stages if stage.vram_peak_mib is not None]
    if vram:
        return Figure(value=max(vram), reason="VRAM of the server's cards")
    rss = [stage.rss_peak_mib for stage in found.stages if stage.rss_peak_mib is not None]
    if rss:
        return Figure(value=max(rss), reason="RSS of the server's processes")
    reasons = [stage.memory_reason for stage in found.stages if stage.memory_reason]
    return unknown(reasons[0] if reasons else found.lacking)


def _word_memory(found: Found) -> Figure:
    if not found.words:
        return unknown(found.lacking)
    return Figure(
        value=max(one.rss_mib for one in found.words.values()), reason="RSS of a process that holds the index"
    )


def _word_index(found: Found) -> Figure:
    largest = max(found.words.values(), key=lambda one: one.n_docs, default=None)
    if largest is None:
        return unknown(found.lacking)
    return Figure(
        value=largest.index_bytes / largest.n_docs * MILLION / MIB,
        reason=f"reckoned up from the index of {largest.n_docs:,} documents",
    )


def _model(found: Found) -> Figure:
    looked = found.looked
    if looked.system.kind == "hosted":
        return unknown("runs at its provider")
    files = looked.prepared.files if looked.prepared else None
    if files is None and looked.card is not None:
        try:
            files = model_files.locate(looked.card, verify=False)
        except DeploytoolError:
            return unknown("its files are not on this machine")
    if files is None or files.weights_bytes is None:
        return unknown(
            "an address without a model card" if looked.card is None else "its files were not read"
        )
    return Figure(value=files.weights_bytes / MIB)


def _facts(found: Found) -> dict[str, Figure]:
    looked, system = found.looked, found.looked.system
    if system.kind == "baseline":
        package = PACKAGES[str(system.baseline)][0]
        return {
            "usd_per_1m_tokens": unknown("runs on any processor: no price is known"),
            "languages": Figure(value="words by spaces; Chinese with jieba"),
            "licence": _package_licence(package),
            "local": Figure(value=True),
        }
    licence = Figure(value=looked.card.licence) if looked.card else unknown("an address without a model card")
    return {
        "usd_per_1m_tokens": _price(found),
        "languages": _languages(found),
        "licence": licence,
        "local": _local(found),
    }


def _languages(found: Found) -> Figure:
    card = found.looked.card
    if card is None or card.languages is None:
        return unknown("an address without a model card" if card is None else "the model card does not say")
    return Figure(value=card.languages)


def _package_licence(package: str) -> Figure:
    about: Mapping[str, Any] = importlib.metadata.metadata(package)  # type: ignore[assignment]
    if about.get("License-Expression"):
        return Figure(value=str(about["License-Expression"]))
    classes = importlib.metadata.metadata(package).get_all("Classifier") or []
    names = [line.rsplit(" :: ", 1)[1] for line in classes if line.startswith("License :: ")]
    return Figure(value=names[0]) if names else unknown("the package does not say")


def _price(found: Found) -> Figure:
    card = found.looked.card
    if card is not None and card.api is not None:
        if card.api.usd_per_million_tokens is None:
            return unknown("its card has no price")
        return Figure(value=card.api.usd_per_million_tokens, reason=card.api.price_source)
    if found.capacity is None:
        return unknown("no capacity was measured" if found.load else _no_load(found))
    plan = found.capacity.plan
    if plan.usd_per_1m_tokens is None:
        return unknown(plan.usd_reason or "no answer stated its tokens")
    return Figure(value=plan.usd_per_1m_tokens, reason=plan.price)


def _local(found: Found) -> Figure:
    system = found.looked.system
    if system.kind == "hosted":
        return Figure(value=False)
    if system.kind != "url":
        return Figure(value=True)
    if BaseUrl.parse(str(system.url)).loopback:
        return Figure(value=True, reason="an address of this machine")
    return unknown("an address: where it runs is not known")
