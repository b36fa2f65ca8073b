"""What a deployment's server holds now: memory of its processes, and of its cards where there are any."""

from __future__ import annotations

import time
from typing import Any

from deploytool.probes.liveness import alive
from deploytool.records import Deployment

READING_S = 0.15


def cards_before(deployment: Deployment) -> dict[str, Any]:
    """What the cards held before the server was started, and which card it is; empty where it uses none."""
    if not deployment.launch.devices:
        return {}
    from deploytool.telemetry.nvml import detect

    taken = [gpu for gpu in detect().gpus if gpu.index in deployment.launch.devices]
    used = [gpu.memory_used_mib for gpu in taken if gpu.memory_used_mib is not None]
    if not taken:
        return {}
    known = len(used) == len(deployment.launch.devices)
    return {
        "card": {"name": taken[0].name, "total_mib": taken[0].memory_total_mib},
        "vram_before_mib": round(sum(used), 1) if known else None,
    }


def memory_now(deployment: Deployment) -> dict[str, Any]:
    """`{"rss_mib", "vram_used_mib", "vram_process_mib", "vram_reason"}`; None with a reason where unknown.

    vram_used_mib is of the whole cards that it uses, vram_process_mib of its own processes.
    """
    from deploytool.telemetry.sampler import MemorySampler

    pid = deployment.process.pid if deployment.process else None
    sampler = MemorySampler(
        pid, deployment.launch.devices, interval_s=0.05, no_devices_reason=deployment.no_card
    )
    sampler.start("now")
    time.sleep(READING_S)
    sampler.stop()
    peak = sampler.peak("now")
    return {
        "rss_mib": _rounded(peak.rss_peak_mib),
        "vram_used_mib": _rounded(peak.vram_peak_mib),
        "vram_process_mib": _rounded(peak.vram_process_peak_mib),
        "vram_reason": peak.vram_reason,
    }


def warmed_mib(deployment: Deployment) -> float | None:
    """Card memory that the server's warm-up reserved, where its readiness answer tells; else None."""
    spec = deployment.launch
    if not spec.devices:
        return None
    said = alive(spec.url, spec.readiness.path, spec.readiness.probe_timeout_s, read=True).document
    value = said.get("warmed_mib")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
