"""Hardware profiles: what a card is, by the names and memory that NVML reports.

Two SKUs can share one NVML name (RTX 3060 8/12 GB, RTX 4060 Ti 8/16 GB), so a profile matches by name *and*
memory. Figures come from YAML files (`profiles/hardware/`), each of which says where they are from.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from deploytool.schema import Document

Dtype = Literal["float32", "float16", "bfloat16"]
Scalar = str | int | float | bool


class MemoryRange(Document):
    """NVML's memory.total in MiB, both ends included."""

    min_mib: int = Field(gt=0)
    max_mib: int = Field(gt=0)


class GpuMatch(Document):
    """How a card is recognised: any of the NVML names, and the memory range."""

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
