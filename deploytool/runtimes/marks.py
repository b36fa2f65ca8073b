"""Which processes belong to a deployment, whoever lost sight of them: found through /proc by their mark.

The mark is two environment variables, inherited by everything that a server forks. Some programs overwrite
the memory that /proc shows as their environment (setproctitle does), so two more ways count: the process tree
below a living supervisor or server, and the supervisor's session together with the deployment's folder as the
working directory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from deploytool.identity import ProcessIdentity, identify, is_alive, send_signal

DEPLOYMENT = "DEPLOYTOOL_DEPLOYMENT"
STATE = "DEPLOYTOOL_STATE"


class Mark(NamedTuple):
    """Whose a process is: the deployment's id, and the state folder of the tool that started it."""

    id: str
    home: str


def environment(deployment_id: str, home: Path) -> dict[str, str]:
    """The variables that mark a process."""
    return {DEPLOYMENT: deployment_id, STATE: str(home)}


def read_mark(pid: int) -> Mark | None:
    """The mark of a process; None: none, gone, or not ours to read."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    if DEPLOYMENT.encode() not in data:
        return None
    variables = dict(entry.partition(b"=")[::2] for entry in data.split(b"\0"))
    deployment, home = variables.get(DEPLOYMENT.encode()), variables.get(STATE.encode())
    return Mark(os.fsdecode(deployment), os.fsdecode(home)) if deployment and home else None


def pids() -> list[int]:
    """Every process but this one, which may have been started below a server of ours."""
    me = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != me]  # noqa: PTH208


def marked(home: Path) -> dict[str, list[ProcessIdentity]]:
    """Living processes that carry the mark of this state folder, by deployment."""
    found: dict[str, list[ProcessIdentity]] = {}
    for pid in pids():
        if read_mark(pid) is None:
            continue
        identity = identify(pid)
        # Read again, after the identity: had the pid passed to another process, the mark would be its own.
        mark = read_mark(pid)
        if identity and mark and mark.home == str(home):
            found.setdefault(mark.id, []).append(identity)
    return found


def members(
    deployment_id: str,
    home: Path,
    folder: Path,
    supervisor: ProcessIdentity | None,
    server: ProcessIdentity | None,
) -> list[ProcessIdentity]:
    """Every living process of one deployment."""
    rows = {pid: row for pid in pids() if (row := _row(pid))}
    ours = set(_below(rows, [who.pid for who in (supervisor, server) if who and is_alive(who)]))
    for pid, row in rows.items():
        unmarked = supervisor and row.session == supervisor.pid and _works_in(pid, folder)
        if unmarked or read_mark(pid) == Mark(deployment_id, str(home)):
            ours.add(pid)
    ours.discard(os.getpid())
    return [identity for pid in sorted(ours) if (identity := identify(pid))]


def signal_all(processes: Collection[ProcessIdentity], number: int) -> None:
    for process in processes:
        send_signal(process, number)


def program(pid: int) -> str:
    """The short name of a process's program, for messages."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"


class _Row(NamedTuple):
    parent: int
    session: int


def _row(pid: int) -> _Row | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Row(int(fields[1]), int(fields[3]))


def _below(rows: dict[int, _Row], roots: Collection[int]) -> Iterator[int]:
    """The roots and all their descendants."""
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)") == str(folder)  # noqa: PTH115
    except OSError:
        return False
