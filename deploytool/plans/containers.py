"""A plan as a container's: which image, and how much memory the container may use."""

from __future__ import annotations

from deploytool.engines import engine
from deploytool.errors import BadInput
from deploytool.planning import Plan
from deploytool.plans import Prepared
from deploytool.telemetry import host
from deploytool.telemetry.nvml import detect

LOWEST_MIB = 64
ROOM_MIB = 2048  # beside the estimate: Python, libraries, files that are read
HOST_SHARE = 0.9  # where the estimate is of a card: a server may not take the whole machine


def contained(
    prepared: Prepared, *, image: str | None = None, memory_limit_mib: int | None = None
) -> Prepared:
    """The same launch with its image and memory limit. Incompatible where the engine has no image for it."""
    plan = prepared.plan
    warnings: tuple[str, ...] = ()
    name, version = image, None
    if name is None:
        chosen = engine(plan.engine).image(prepared.hardware, _driver(prepared))
        name, version, warnings = chosen.name, chosen.version, chosen.warnings
    if memory_limit_mib is not None and memory_limit_mib < LOWEST_MIB:
        raise BadInput(f"--memory-limit {memory_limit_mib}: MiB, at least {LOWEST_MIB}")
    launch = plan.launch.model_copy(
        update={
            "image": name,
            "engine_version": version,
            "memory_limit_mib": memory_limit_mib or _limit_mib(plan, on_cpu=prepared.hardware.kind == "cpu"),
        }
    )
    return prepared._replace(
        plan=plan.model_copy(update={"launch": launch, "warnings": (*plan.warnings, *warnings)})
    )


def _driver(prepared: Prepared) -> str | None:
    if prepared.hardware.kind == "cpu":
        return None
    return next((gpu.driver_version for gpu in detect().gpus if gpu.driver_version), None)


def _limit_mib(plan: Plan, *, on_cpu: bool) -> int:
    """On processors twice what is planned, to bound a fault and no load; else most of the machine."""
    total = host.memory().total_mib * HOST_SHARE
    wanted = 2 * plan.memory.upper_mib + ROOM_MIB if on_cpu else total
    return int(min(wanted, total))
