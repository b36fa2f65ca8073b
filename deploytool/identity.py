"""Who a process is: pid *and* start, because pids are reused. Linux, read from /proc.

A start is kept as clock ticks since boot together with the boot's id, which neither a clock jump nor a
reboot can confuse; `started_at` (seconds since the epoch, as psutil's create_time) is for people and for
records that lack the ticks.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

CLOCK_SLACK_S = 2.0  # btime of /proc/stat is whole seconds and follows clock corrections


@dataclass(frozen=True)  # no slots: reading a record sets what a newer version wrote of it, too
class ProcessIdentity:
    """A process is identified by pid *and* start time (seconds since the epoch): pids are reused.

    `start_ticks` (clock ticks since boot) and `boot_id` decide where they are known: no clock moves them. In a
    record further fields, of a newer version, are read over and not written again.
    """

    pid: int
    started_at: float
    start_ticks: int | None = None
    boot_id: str | None = None


def myself() -> ProcessIdentity:
    """The identity of this process."""
    found = identify(os.getpid())
    if found is None:
        # No /proc here: the pid alone is better than no owner.
        return ProcessIdentity(pid=os.getpid(), started_at=0.0)
    return found


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has `pid` now; None where there is none, or only a zombie."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    started_at = boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    return ProcessIdentity(pid=pid, started_at=round(started_at, 2), start_ticks=ticks, boot_id=boot_id())


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Whether that very process still runs. False where its pid belongs to another process now."""
    if identity is None:
        return False
    now = identify(identity.pid)
    if now is None:
        return False
    if identity.start_ticks is not None and identity.boot_id is not None:
        return (identity.start_ticks, identity.boot_id) == (now.start_ticks, now.boot_id)
    return abs(identity.started_at - now.started_at) <= CLOCK_SLACK_S


def is_reused(identity: ProcessIdentity) -> bool:
    """Whether the pid belongs to a stranger now."""
    return not is_alive(identity) and identify(identity.pid) is not None


def send_signal(identity: ProcessIdentity, number: int) -> bool:
    """Signal that very process, never a stranger that got its pid. False where it is gone."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    except OSError:
        return is_alive(identity) and _kill(identity.pid, number)
    try:
        # The handle pins the process: what it is after opening, it stays.
        if not is_alive(identity):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
            return True
        return False
    finally:
        os.close(handle)


def _kill(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to a process's start (field 22 of /proc/PID/stat); None: gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the program's name in brackets, may itself hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def boot_time() -> float:
    """Seconds since the epoch at which this machine booted, by its present clock."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
