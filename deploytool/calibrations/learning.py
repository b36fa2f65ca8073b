"""What a start or a load tells about memory: a measurement to keep, or why there is none.

What counts is what NVML said of the server's own processes. Where it knows none of them (a container sees
other process ids), it is what the cards held more than right before the start. A server that warmed up with
full forward passes, and says how much of the card that reserved, has measured both parts by its start alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from deploytool import calibrations
from deploytool.errors import NotAvailable
from deploytool.memory.measured import Measured
from deploytool.records import Cell, Deployment, RunRecord

Figure = Literal["process", "card"]
LONG_ENOUGH = 0.8  # of the longest text: attention's mask grows with the square of it
IN_FLIGHT = 2  # forward passes' worth of tokens: with so many waiting, one of them was full


class Learned(NamedTuple):
    """A measurement, or None and the reason."""

    entry: Measured | None
    reason: str = ""


def from_start(deployment: Deployment) -> Learned:
    """What the start of a server on cards measured, at rest."""
    if not deployment.launch.devices:
        return Learned(None, "it uses no card: only memory of cards is calibrated")
    estimate = deployment.memory.get("estimate") or {}
    card = deployment.memory.get("card") or {}
    if not estimate.get("rest_mib") or not card.get("name"):
        return Learned(None, "its plan or its card was not recorded")
    figure, loaded = _held(deployment.memory)
    if loaded is None:
        return Learned(None, deployment.memory.get("vram_reason") or "NVML gave no figure")
    if loaded <= 0:
        return Learned(None, "the card holds no more than before the start: the model is not on it")
    cards = len(deployment.launch.devices)
    warmed = deployment.memory.get("warmed_mib") or 0.0
    if loaded <= warmed:
        return Learned(None, f"the card holds less than the {warmed:,.0f} MiB that its warm-up reserved")
    entry = Measured(
        model=deployment.model,
        engine=deployment.engine,
        engine_version=deployment.launch.engine_version,
        card=card["name"],
        card_mib=card.get("total_mib"),
        dtype=deployment.dtype or "unknown",
        quantization=_planned(deployment, "quantization"),
        tensor_parallel=_planned(deployment, "tensor_parallel") or 1,
        weights_mib=estimate["weights_mib"],
        rest_mib=estimate["rest_mib"],
        work_mib=estimate["work_mib"],
        loaded_mib=round((loaded - warmed) / cards, 1),
        peak_mib=round(loaded / cards, 1) if warmed else None,
        full=warmed > 0,
        figure=figure,
        source="start",
        deployment=deployment.id,
        at=deployment.ready_at or _now(),
    )
    return Learned(entry) if entry.problem is None else Learned(None, entry.problem)


def from_load(deployment: Deployment, run: RunRecord) -> Learned:
    """What a load added to what its start measured: the largest peak of its cells."""
    start = from_start(deployment)
    if start.entry is None:
        return start
    before = deployment.memory.get("vram_before_mib")
    peaks = []
    for phase in run.memory:
        value = phase.vram_process_peak_mib if start.entry.figure == "process" else phase.vram_peak_mib
        if phase.phase.startswith("load ") and value is not None:
            peaks.append(value - (before if start.entry.figure == "card" and before else 0.0))
    if not peaks:
        return Learned(None, "no cell of the load has a peak of the card's memory")
    entry = start.entry.model_copy(
        update={
            "peak_mib": round(max(peaks) / len(deployment.launch.devices), 1),
            "full": start.entry.full or any(_filled(cell, deployment) for cell in run.cells),
            "source": "load",
            "at": run.finished_at or _now(),
        }
    )
    return Learned(entry) if entry.problem is None else Learned(None, entry.problem)


def keep(learned: Learned) -> str | None:
    """Keep a measurement; why it could not be. A start or a load does not fail for want of it."""
    if learned.entry is None:
        return learned.reason
    try:
        calibrations.add([learned.entry])
    except NotAvailable as error:
        return error.message
    return None


def forward_tokens(deployment: Deployment) -> int | None:
    """Tokens of the largest forward pass of a server, by its plan."""
    for name in ("max_batch_tokens", "chunked_prefill_size", "max_prefill_tokens"):
        value = _planned(deployment, name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _filled(cell: Cell, deployment: Deployment) -> bool:
    """Whether a cell must have filled a forward pass with texts of about the longest length."""
    tokens, longest = forward_tokens(deployment), deployment.max_length
    if not (tokens and longest and cell.tokens_per_s and cell.qps and cell.requests):
        return False
    each = cell.tokens_per_s / cell.qps
    long_texts = each / cell.batch >= LONG_ENOUGH * longest
    return long_texts and each * cell.concurrency >= IN_FLIGHT * tokens * LONG_ENOUGH


def _held(memory: dict[str, Any]) -> tuple[Figure, float | None]:
    """MiB over all cards of the server after its start."""
    own = memory.get("vram_process_mib")
    if own is not None:
        return "process", own
    used, before = memory.get("vram_used_mib"), memory.get("vram_before_mib")
    return "card", None if used is None or before is None else used - before


def _planned(deployment: Deployment, name: str) -> Any:
    values = deployment.plan.get("values") or ()
    return next((entry.get("value") for entry in values if entry.get("name") == name), None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
