"""Hardware profiles: what a card is, by the names and memory that NVML reports.

Two SKUs can share one NVML name (RTX 3060 8/12 GB, RTX 4060 Ti 8/16 GB), so a profile matches by name *and*
memory. Figures come from YAML files (`profiles/hardware/`), each of which says where they are from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Literal

from pydantic import Field

from deploytool.documents import Fault
from deploytool.errors import NotAvailable
from deploytool.schema import Document

Dtype = Literal["float32", "float16", "bfloat16"]
Scalar = str | int | float | bool


class MemoryRange(Document):
    """NVML's memory.total in MiB, both ends included."""

    min_mib: int = Field(gt=0)
    max_mib: int = Field(gt=0)

    def holds(self, mib: float) -> bool:
        return self.min_mib <= mib <= self.max_mib


class GpuMatch(Document):
    """How a card is recognised: any of the NVML names, and the memory range.

    No range: the card reports no memory figure through NVML (unified memory), the name alone decides.
    """

    nvml_names: tuple[str, ...] = Field(min_length=1)
    memory: MemoryRange | None = None


class Dtypes(Document):
    allowed: tuple[Dtype, ...] = Field(min_length=1)
    preferred: Dtype


class Price(Document):
    """A dated list price. `gpus` cards come with one instance."""

    usd_per_hour: float = Field(gt=0)
    instance: str
    gpus: int = Field(gt=0, default=1)
    as_of: date
    source: str


class HardwareProfile(Document):
    """One SKU (`kind: gpu`), this machine's processors (`cpu`), or a name for several SKUs (`alias`)."""

    name: str
    title: str
    kind: Literal["gpu", "cpu", "alias"]
    match: GpuMatch | None = None
    memory_mib: int | None = Field(default=None, gt=0, description="NVML memory.total of one card")
    usable_mib: int | None = Field(default=None, gt=0, description="what a process can get of one idle card")
    unified_memory: bool = False
    bandwidth_gb_per_s: float | None = Field(default=None, gt=0)
    compute_capability: str | None = Field(default=None, pattern=r"^\d+\.\d+$")
    tensor_tflops: float | None = Field(default=None, gt=0, description="dense FP16/BF16, FP32 accumulate")
    tdp_w: int | None = Field(default=None, gt=0)
    dtypes: Dtypes | None = None
    engine_defaults: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    price: Price | None = None
    members: tuple[str, ...] = Field(default=(), description="for an alias: the profiles to choose from")
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = Field(min_length=1)

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability as (major, minor), None where there is no CUDA card."""
        if self.compute_capability is None:
            return None
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)


BF16_CAPABILITY = (8, 0)


def match_profiles(
    gpu_name: str, memory_total_mib: float | None, profiles: Iterable[HardwareProfile]
) -> list[HardwareProfile]:
    """The profiles of a card, by NVML's name *and* memory.total (MiB); usually one, none for an unknown card.

    An unknown memory satisfies only a profile without a range: it cannot tell an 8 GB card from a 12 GB one.
    """
    return [
        profile
        for profile in profiles_by_name(gpu_name, profiles)
        if profile.match is not None
        and (
            profile.match.memory is None
            or (memory_total_mib is not None and profile.match.memory.holds(memory_total_mib))
        )
    ]


def profiles_by_name(gpu_name: str, profiles: Iterable[HardwareProfile]) -> list[HardwareProfile]:
    """The profiles whose NVML name is that of the card, whatever its memory."""
    wanted = plain_gpu_name(gpu_name)
    return [
        profile
        for profile in profiles
        if profile.match is not None and wanted in map(plain_gpu_name, profile.match.nvml_names)
    ]


def plain_gpu_name(name: str) -> str:
    """An NVML name for comparing: older drivers leave the leading "NVIDIA" out."""
    return " ".join(name.lower().split()).removeprefix("nvidia ")


def choose_member(
    alias: HardwareProfile,
    cards: Sequence[tuple[str, float | None]],
    profiles: Iterable[HardwareProfile],
    *,
    reason: str | None = None,
) -> HardwareProfile:
    """The member of an alias that is present; of several, the one of the most cards, then of most memory.

    `cards` are NVML's (name, memory.total MiB) of this machine; `reason` says why there are none. Raises
    NotAvailable that names the members.
    """
    members = [profile for profile in profiles if profile.name in alias.members]
    present: list[HardwareProfile] = []
    for name, memory_mib in cards:
        present += match_profiles(name, memory_mib, members)
    if not present:
        seen = ", ".join(f"{name} ({memory_mib or '?'} MiB)" for name, memory_mib in cards)
        raise NotAvailable(
            f"the profile {alias.name!r} picks the card that is present, and none of its members is"
            f" ({f'found: {seen}' if seen else reason or 'no GPU found'})",
            hint=f"name one of them: --profile {' | '.join(alias.members)};"
            " or --profile cpu, which needs no GPU",
        )
    return max(present, key=lambda profile: (present.count(profile), profile.memory_mib or 0))


def hardware_faults(profile: HardwareProfile) -> Iterator[Fault]:
    """What is wrong between the fields of a profile. Fields that could not be read are None."""
    if profile.kind == "gpu":
        yield from _gpu_faults(profile)
    if profile.kind == "alias" and not profile.members:
        yield Fault(("members",), "an alias names the profiles to choose from")
    if profile.kind != "alias" and profile.kind is not None and profile.members:
        yield Fault(("members",), "only an alias (kind: alias) has members")
    if profile.kind in ("cpu", "alias"):
        for name in ("match", "memory_mib", "usable_mib", "compute_capability"):
            if getattr(profile, name) is not None:
                yield Fault((name,), f"belongs to a card (kind: gpu), not to kind: {profile.kind}")
    if profile.kind in ("gpu", "cpu") and profile.dtypes is None:
        yield Fault(("dtypes",), "this field is required: {allowed: [...], preferred: ...}")
    yield from _dtype_faults(profile)
    yield from _memory_faults(profile)


def _gpu_faults(profile: HardwareProfile) -> Iterator[Fault]:
    if profile.match is None:
        yield Fault(("match",), "a card needs this: {nvml_names: [...], memory: {min_mib, max_mib}}")
    if profile.compute_capability is None:
        yield Fault(("compute_capability",), 'a card needs this, in quotes: "8.6"')
    if profile.unified_memory:
        return
    for name in ("memory_mib", "usable_mib"):
        if getattr(profile, name) is None:
            yield Fault((name,), "a card needs this, in MiB (only unified_memory: true has none)")
    if profile.match is not None and profile.match.memory is None:
        yield Fault(("match", "memory"), "a card needs this: {min_mib, max_mib} around its memory_mib")


def _dtype_faults(profile: HardwareProfile) -> Iterator[Fault]:
    if profile.dtypes is None:
        return
    if profile.dtypes.preferred not in profile.dtypes.allowed:
        allowed = ", ".join(profile.dtypes.allowed)
        yield Fault(("dtypes", "preferred"), f"expected one of dtypes.allowed ({allowed})")
    capability = profile.capability
    if capability is not None and capability < BF16_CAPABILITY and "bfloat16" in profile.dtypes.allowed:
        yield Fault(
            ("dtypes", "allowed"),
            f"bfloat16 needs compute capability 8.0, this card has {profile.compute_capability}",
        )


def _memory_faults(profile: HardwareProfile) -> Iterator[Fault]:
    span = profile.match.memory if profile.match is not None else None
    if span is not None and span.min_mib > span.max_mib:
        yield Fault(("match", "memory"), f"min_mib ({span.min_mib}) is above max_mib ({span.max_mib})")
    elif span is not None and profile.memory_mib is not None and not span.holds(profile.memory_mib):
        yield Fault(
            ("match", "memory"),
            f"expected a range around memory_mib ({profile.memory_mib}), got {span.min_mib}..{span.max_mib}",
        )
    if profile.memory_mib and profile.usable_mib and profile.usable_mib > profile.memory_mib:
        yield Fault(("usable_mib",), f"expected at most memory_mib ({profile.memory_mib})")
