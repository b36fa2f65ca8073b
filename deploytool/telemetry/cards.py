"""What is known of a card: figures that NVML gave, or the reasons why it did not."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from pydantic import Field

from deploytool.schema import Document

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """A value, or None and the reason why there is none."""

    value: T | None
    reason: str | None = None


class Memory(NamedTuple):
    """One card's memory in MiB. used + reserved + free = total.

    source v2: `used` is without what the driver keeps for itself (`reserved`). v1 (drivers before R510)
    cannot tell the two apart: `used` holds both and `reserved_mib` is None.
    """

    total_mib: float
    used_mib: float
    free_mib: float
    reserved_mib: float | None
    source: str


class GpuProcess(Document):
    """A process that holds memory on a card. `name` is its program without path and arguments."""

    pid: int
    name: str | None = None
    memory_mib: float | None = None

    def __str__(self) -> str:
        size = "an unknown amount" if self.memory_mib is None else f"{self.memory_mib:,.0f} MiB"
        return f"{self.name or 'a process'} (pid {self.pid}) holds {size}"


class Gpu(Document):
    """One card as NVML shows it now. A figure that is None has its reason in `problems`, under its name."""

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_total_mib: float | None = None
    memory_used_mib: float | None = None
    memory_free_mib: float | None = None
    memory_reserved_mib: float | None = None
    memory_source: str | None = None
    compute_capability: str | None = None
    driver_version: str | None = None
    processes: tuple[GpuProcess, ...] | None = None
    mig: bool | None = None
    problems: dict[str, str] = Field(default_factory=dict)

    def __str__(self) -> str:
        if self.name is None:
            return f"GPU {self.index} (not readable: {self.problems.get('name', 'no reason given')})"
        size = "memory unknown" if self.memory_total_mib is None else f"{self.memory_total_mib:,.0f} MiB"
        return f"GPU {self.index} {self.name} ({size})"


class Detected(Document):
    """What NVML shows. Without cards `reason` says why and `mend` what to do."""

    gpus: tuple[Gpu, ...] = ()
    reason: str | None = None
    mend: str | None = None


class Unavailable(NamedTuple):
    """NVML cannot be asked at all: why, and what to do."""

    reason: str
    mend: str
