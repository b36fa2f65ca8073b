"""What a run was measured on and in: target, cards, client machine, and memory over time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploytool import __version__
from deploytool.errors import DeploytoolError
from deploytool.loadgen.machine import describe
from deploytool.records import Cell, PhaseMemory, Target
from deploytool.statistics import METHOD
from deploytool.targets import Resolved
from deploytool.telemetry.nvml import detect
from deploytool.telemetry.sampler import MemorySampler

NOT_OURS = "memory is measured of servers that deploytool started; this target is an address"
TOKENS = "the usage that each answer states, summed over the successful requests of the window"
IDLE = "the target as found, before the first request of this run"
LOADED = "after one answered request of every batch size, no request in flight"


def target_document(target: Resolved) -> Target:
    deployment = target.deployment
    if deployment is None:
        return Target(url=target.url, model=target.model, dtype=target.dtype)
    revision = deployment.plan.get("revision") or (target.card.revision if target.card else None)
    return Target(
        url=target.url,
        model=target.model,
        deployment=deployment.name,
        engine=deployment.engine,
        engine_version=deployment.launch.engine_version,
        profile=deployment.profile,
        dtype=target.dtype,
        model_revision=revision if isinstance(revision, str) else None,
    )


def environment() -> dict[str, Any]:
    """Tool, client machine, cards and clocks. The wall clock is read once; durations are all monotonic."""
    cards = detect()
    return {
        "tool": __version__,
        **describe(),
        "gpus": [gpu.model_dump(mode="json") for gpu in cards.gpus],
        "gpus_reason": cards.reason,
        "clock": {
            "wall": datetime.now(UTC).isoformat(timespec="microseconds"),
            "monotonic_ns": time.monotonic_ns(),
        },
        "method": {
            "percentiles": METHOD,
            "tokens": TOKENS,
            "idle": IDLE,
            "loaded": LOADED,
            "latency": "until the answer arrived, by the kernel's word (Linux, no TLS); else until it was read",
            "window": "requests that started in it; the load goes on until they are answered",
        },
    }


def address(target: Resolved) -> tuple[str, str]:
    """Scheme with host, and path, of the embeddings of a target."""
    parts = urlsplit(target.embeddings_url)
    return f"{parts.scheme}://{parts.netloc}", parts.path


def energy_of(rows: Sequence[dict[str, Any]], window: tuple[int, int] | None, cell: Cell) -> float | None:
    """Joules of all sampled cards for a million of the window's tokens; None where power or tokens lack."""
    if window is None or not cell.tokens_per_s:
        return None
    watts: dict[int, float] = {}
    for row in rows:
        if row["power_w"] is not None and window[0] <= row["time_ns"] < window[1]:
            watts[row["time_ns"]] = watts.get(row["time_ns"], 0.0) + row["power_w"]
    if not watts:
        return None
    return 1e6 * sum(watts.values()) / len(watts) / cell.tokens_per_s


def tokenizer_of(target: Resolved) -> Path | None:
    """The tokenizer.json of the target's model where its files are on this machine. Nothing is downloaded."""
    folders = [Path(target.deployment.launch.model_path)] if target.deployment else []
    if target.card is not None:
        from deploytool.model_files import locate

        try:
            found = locate(target.card, verify=False).path
        except DeploytoolError:
            found = None
        folders += [Path(found)] if found else []
    return next((path for folder in folders if (path := folder / "tokenizer.json").is_file()), None)


class Memory:
    """Memory of the target by phase; of a bare address only the reason why there is none."""

    def __init__(self, target: Resolved, earlier: list[PhaseMemory]) -> None:
        self._earlier = earlier
        self._names: list[str] = []
        self._sampler: MemorySampler | None = None
        deployment = target.deployment
        if deployment is not None and deployment.process is not None:
            self._sampler = MemorySampler(
                deployment.process.pid,
                deployment.launch.devices,
                no_devices_reason=deployment.no_card,
                also=target.replica_pids,
            )

    def phase(self, name: str) -> None:
        self._names.append(name)
        if self._sampler is None:
            return
        if len(self._names) == 1:
            self._sampler.start(name)
        else:
            self._sampler.phase(name)

    def peak(self, phase: str) -> PhaseMemory:
        return self._sampler.peak(phase) if self._sampler else _unknown(phase)

    def now(self) -> PhaseMemory:
        """The present phase so far."""
        return self.peak(self._names[-1]) if self._names else _unknown("")

    def summary(self) -> list[PhaseMemory]:
        """Every phase, with those of an earlier part of the run that were not repeated first."""
        now = self._sampler.summary() if self._sampler else [_unknown(name) for name in self._names]
        again = {phase.phase for phase in now}
        return [phase for phase in self._earlier if phase.phase not in again] + now

    def rows(self) -> list[dict[str, Any]]:
        return self._sampler.rows() if self._sampler else []

    def settle(self, seconds: float) -> None:
        """Let the present phase have a few readings."""
        if self._sampler is not None:
            time.sleep(seconds)

    def stop(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()


def _unknown(phase: str) -> PhaseMemory:
    return PhaseMemory(phase=phase, vram_reason=NOT_OURS, missing={"rss_mib": NOT_OURS})
