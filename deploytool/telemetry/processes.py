"""The memory of a server's process tree on the host.

RSS counts a page that several processes share (libraries, a forked parent's heap) once in each of them, so
the sum over a tree is an upper bound. Reading what is really shared (PSS) walks every mapping and takes
milliseconds a process: too much for sampling.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence

import psutil

MIB = 1024 * 1024
LOOK_SHARE = 0.005  # of one processor


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants, itself first; empty where it is gone (or a zombie)."""
    try:
        root = psutil.Process(pid)
        if root.status() == psutil.STATUS_ZOMBIE:
            return []
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_rss_mib(pid: int) -> float | None:
    """RSS summed over the tree, MiB; None where the process is gone."""
    return _rss_mib(tree(pid))


def _rss_mib(processes: list[psutil.Process]) -> float | None:
    total = 0
    for process in processes:
        # One that vanished between two looks, or that may not be read, adds nothing.
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / MIB if total else None


class ProcessTree:
    """One server's processes over time, cheap to ask ten times a second.

    Who belongs to the tree is looked up once in `refresh_s` (0: at every call), or less often where a look,
    which walks every process of the machine, would take more than `LOOK_SHARE` of the time; memory is read
    at every call. The root is told from a later process with its pid by its start time; members that
    outlive their parent stay in the tree. also: further roots, of servers that work for this one.
    """

    def __init__(self, pid: int, refresh_s: float = 1.0, also: Sequence[int] = ()) -> None:
        self.pid = pid
        self._refresh_s = refresh_s
        self._look_at = -math.inf
        self._members: dict[int, psutil.Process] = {}
        for root in (pid, *also):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._members[root] = psutil.Process(root)

    def pids(self) -> frozenset[int]:
        """The pids of the tree, as of the last look."""
        self._refresh()
        return frozenset(self._members)

    def rss_mib(self) -> float | None:
        """RSS summed over the tree, MiB; None when none of it runs any more."""
        self._refresh()
        rss = _rss_mib(list(self._members.values()))
        if rss is None and self._members:
            self._look_at = -math.inf  # all of it just ended: the next look shall see that at once
        return rss

    def _refresh(self) -> None:
        began = time.monotonic()
        if began < self._look_at:
            return
        running = {pid: process for pid, process in self._members.items() if _runs(process)}
        seen: set[int] = set()
        for process in list(running.values()):
            if process.pid in seen:
                continue  # found below one that was looked at: each look walks the whole machine
            with contextlib.suppress(psutil.Error):
                below = {child.pid: child for child in process.children(recursive=True)}
                running = below | running
                seen |= below.keys()
        self._members = running
        ended = time.monotonic()
        pause = max(self._refresh_s, (ended - began) / LOOK_SHARE) if self._refresh_s else 0.0
        self._look_at = began + pause


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
