"""What a runtime is: it starts, observes, reads and stops a LaunchSpec.

Every runtime leaves its mark (the deployment's id and the state folder) on what it starts, so that whatever
is found without a record still has a name and an end.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from deploytool.identity import ProcessIdentity

if TYPE_CHECKING:
    from deploytool.records import Deployment


class Running(NamedTuple):
    """What was started: a process and its supervisor, or a container."""

    process: ProcessIdentity | None = None
    supervisor: ProcessIdentity | None = None
    container: str | None = None


class Observation(NamedTuple):
    """What is there now. `reason` says in words how a server that is gone ended, or what is odd.

    `returning`: it is gone, and the runtime itself is about to start it again.
    """

    alive: bool
    returning: bool = False
    running: Running | None = None
    exit_status: int | None = None
    reason: str | None = None
    leftovers: tuple[int, ...] = ()


class Stray(NamedTuple):
    """Something of ours without a record: the deployment's id, and its pids or containers in words."""

    id: str
    what: str


class LogReader(Protocol):
    def read(self) -> list[str]:
        """Complete lines that came since the last call; never waits."""

    def rest(self) -> list[str]:
        """What is left when nothing more will come, an unfinished last line included; closes the log."""

    def close(self) -> None:
        """Let go of the log; closing twice is fine."""


class Runtime(Protocol):
    """`folder` is the deployment's own, made by the caller, for what the runtime keeps beside the record."""

    name: str

    def check(self, deployment: Deployment) -> None:
        """Raise NotAvailable where this runtime cannot start it on this machine."""

    def start(self, deployment: Deployment, folder: Path, key: str | None) -> Running:
        """Start the server; StartFailed where its program cannot even be executed. Does not wait for it."""

    def keep_up(self, deployment: Deployment, folder: Path) -> None:
        """It is proven: where the runtime can restart what dies, it does so from now on."""

    def observe(self, deployment: Deployment, folder: Path) -> Observation:
        """The truth, cheap enough to be asked ten times a second."""

    def stop(self, deployment: Deployment, folder: Path, grace_s: float) -> None:
        """End all of this deployment, and only that; returns when it is gone, Unhealthy where it stays."""

    def open_log(self, deployment: Deployment, folder: Path, last: int | None) -> LogReader:
        """Read the log from its last `last` lines on; None: from where this start began."""

    def command(self, deployment: Deployment) -> str:
        """What it runs, as one pastes it into a shell; no secret in it."""

    def log_place(self, deployment: Deployment, folder: Path) -> str:
        """Where a person finds the log: a path, or a command."""

    def strays(self, home: Path, known: Collection[str]) -> list[Stray]:
        """What carries the mark of this state folder and of no known deployment."""

    def end_stray(self, stray: Stray, home: Path, grace_s: float) -> None:
        """End what `strays` found, and only that."""
