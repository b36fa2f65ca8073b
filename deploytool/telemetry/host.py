"""How much memory this machine, or the container that this runs in, can still give."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
# Where the own cgroup's limit, usage, statistics and reclaimable pages are read, version 2 first. Inside a
# container both are mounted at the root. Files: kernel documentation, cgroup-v2 and cgroup-v1/memory.
CGROUP = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


class HostMemory(NamedTuple):
    """MiB that can be had now, of how many, and what limits it: "host" or "cgroup"."""

    available_mib: float
    total_mib: float
    limited_by: str


def memory(cgroup: Path = Path("/sys/fs/cgroup")) -> HostMemory:
    """The smaller of what the host has and what the cgroup's limit leaves."""
    import psutil

    host = psutil.virtual_memory()
    for limit_name, usage_name, statistics_name, reclaimable_name in CGROUP:
        limit = _number(cgroup / limit_name)
        usage = _number(cgroup / usage_name)
        if limit is None or usage is None or limit >= host.total:
            continue
        # The kernel takes back cached file pages before it kills anything.
        left = max(limit - usage + _statistic(cgroup / statistics_name, reclaimable_name), 0)
        return HostMemory(min(left, host.available) / MIB, limit / MIB, "cgroup")
    return HostMemory(host.available / MIB, host.total / MIB, "host")


def _number(path: Path) -> int | None:
    """None where there is no such file, or no limit ("max")."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
