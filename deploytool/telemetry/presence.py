"""Which cards of a hardware profile are in this machine, and how much of them is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deploytool.hardware import HardwareProfile, match_profiles
from deploytool.telemetry import host
from deploytool.telemetry.nvml import Gpu, detect


class Live(NamedTuple):
    """What is here now for a profile.

    gpus: its cards, the one with most free memory first. free_mib: free on the fullest card that would be
    taken (for `cpu` and unified memory: what the host can give), None where `reason` says why.
    """

    gpus: tuple[Gpu, ...]
    free_mib: float | None
    reason: str | None


def live(hardware: HardwareProfile, *, gpus: Sequence[int] | None = None, count: int = 1) -> Live:
    """What NVML says now of the profile's cards. Never raises.

    gpus: the indices asked for; without them the `count` cards with most free memory would be taken.
    """
    if hardware.kind == "cpu":
        return Live((), host.memory().available_mib, None)
    detected = detect()
    present = of_profile(hardware, detected.gpus)
    if gpus is not None:
        present = [gpu for gpu in present if gpu.index in gpus]
    if not present:
        return Live((), None, detected.reason or f"no card of the profile {hardware.name} is here")
    taken = present if gpus is not None else present[:count]
    if len(taken) < count:
        return Live(tuple(present), None, f"{count} cards are needed, {len(taken)} of the profile are here")
    free = [free_mib(hardware, gpu) for gpu in taken]
    known = [mib for mib in free if mib is not None]
    if len(known) < len(free):
        reason = next(gpu.problems.get("memory_free_mib") for gpu in taken if gpu.memory_free_mib is None)
        return Live(tuple(present), None, f"free memory is unknown: {reason}")
    return Live(tuple(present), min(known), None)


def choose(hardware: HardwareProfile, count: int) -> tuple[int, ...]:
    """The `count` cards of the profile with most free memory, by index; fewer where fewer are here."""
    return tuple(sorted(gpu.index for gpu in of_profile(hardware, detect().gpus)[:count]))


def of_profile(hardware: HardwareProfile, gpus: Iterable[Gpu]) -> list[Gpu]:
    """The cards of a profile, the one with most free memory first."""
    found = [
        gpu
        for gpu in gpus
        if gpu.name is not None and match_profiles(gpu.name, gpu.memory_total_mib, [hardware])
    ]
    return sorted(found, key=lambda gpu: (-(gpu.memory_free_mib or 0), gpu.index))


def free_mib(hardware: HardwareProfile, gpu: Gpu) -> float | None:
    """Free memory of a card; where card and host share one memory, what the host can give."""
    if gpu.memory_free_mib is None and hardware.unified_memory:
        return host.memory().available_mib
    return gpu.memory_free_mib
