"""Keeping deployments up: what died, or hangs, is restarted with growing pauses, and not for ever.

Only what was ready once and is still wanted is touched: never what `stop` or `down` was asked for, what another
command is at work on, or what its container engine is about to restart. A restart runs in a thread of its own,
since a model may load for minutes; a `watch` that is killed meanwhile leaves a start that the next look adopts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from deploytool.deployment.bring_up import again, claim
from deploytool.deployment.refreshing import refresh
from deploytool.deployment.starting import Say
from deploytool.errors import DeploytoolError
from deploytool.identity import is_alive
from deploytool.records import Deployment
from deploytool.runtimes import runtime
from deploytool.schema import Document
from deploytool.store import Store

GROWTH = 2.0


class Patience(Document):
    """How long to wait for what. Times in seconds.

    The pause before restart number n is `first_pause_s` x 2^n, at most `longest_pause_s`. What stays ready for
    `stable_s` has its restarts forgiven; what does not answer for `hanging_s` counts as dead.
    """

    most_restarts: int = 5
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    stable_s: float = 300.0
    hanging_s: float = 60.0
    look_s: float = 1.0

    def pause_s(self, restarts: int) -> float:
        """The pause before the next restart, after so many."""
        return min(self.first_pause_s * GROWTH**restarts, self.longest_pause_s)


@dataclass
class _Case:
    """What is known of one deployment: since when it is in its state (monotonic), and the restart at work."""

    state: str
    since: float
    due: float | None = None
    work: threading.Thread | None = None


class NotWanted(Exception):
    """Between the look and the restart somebody stopped it, or restarted it."""


class Keeper:
    """Looks again and again; `names` empty: every deployment, also those that are started later."""

    def __init__(self, store: Store, progress: Say, patience: Patience, names: Collection[str] = ()) -> None:
        self.store = store
        self.progress = progress
        self.patience = patience
        self.names = frozenset(names)
        self.cases: dict[str, _Case] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. A state file that cannot be read for a while is told, and waited for."""
        told = None
        while not stop.is_set():
            try:
                self.look()
                told = None
            except DeploytoolError as error:
                if error.message != told:
                    self.progress(f"cannot look: {error.message}")
                told = error.message
            stop.wait(self.patience.look_s)

    def look(self) -> None:
        """See all of them once, and do what is due."""
        found = [one for one in refresh(self.store) if not self.names or one.name in self.names]
        for deployment in found:
            self._attend(deployment)
        known = {deployment.id for deployment in found}
        self.cases = {one: case for one, case in self.cases.items() if one in known or case.work}

    def _attend(self, deployment: Deployment) -> None:
        now = time.monotonic()
        case = self.cases.setdefault(deployment.id, _Case(deployment.state, now))
        if case.work is not None:
            if case.work.is_alive():
                return
            case.work = case.due = None
        if case.state != deployment.state:
            case.state, case.since = deployment.state, now
        if not kept(deployment) or is_alive(deployment.owner):
            case.due = None
        elif deployment.state == "ready":
            case.due = None
            if deployment.restarts and now - case.since >= self.patience.stable_s:
                self.store.change(deployment.id, _forgive)
        elif self._is_down(deployment, now - case.since):
            self._mend(deployment, case, now)

    def _is_down(self, deployment: Deployment, for_s: float) -> bool:
        if deployment.state == "unhealthy":
            return for_s >= self.patience.hanging_s
        if deployment.state != "died":
            return False
        folder = self.store.deployment_folder(deployment.id)
        return not runtime(deployment.runtime).observe(deployment, folder).returning

    def _mend(self, deployment: Deployment, case: _Case, now: float) -> None:
        """Give up, set the time of the next restart, or begin it."""
        if deployment.restarts >= self.patience.most_restarts:
            self._give_up(deployment)
            return
        if case.due is None:
            pause_s = self.patience.pause_s(deployment.restarts)
            case.due = now + pause_s
            what = "hangs" if deployment.state == "unhealthy" else deployment.state
            self.progress(f"{deployment.name} {what}: {deployment.reason}; restarted in {pause_s:g} s")
        if now >= case.due:
            case.work = threading.Thread(target=self._restart, args=(deployment,), daemon=True)
            case.work.start()

    def _give_up(self, deployment: Deployment) -> None:
        times = "once" if deployment.restarts == 1 else f"{deployment.restarts} times"
        why = (
            f"restarted {times} and not up for {self.patience.stable_s:g} s since; last: {deployment.reason}"
        )

        def given_up(record: Deployment) -> None:
            record.gave_up = why
            record.reason = f"watch gave up: {why}"

        self.store.change(deployment.id, given_up)
        self.progress(
            f"{deployment.name}: gave up, {why}; see `deploytool logs {deployment.name}`, mend it, then"
            f" `deploytool restart {deployment.name}`"
        )

    def _restart(self, deployment: Deployment) -> None:
        """In a thread: a store of its own, as SQLite wants it."""

        def once_more(record: Deployment) -> None:
            if not kept(record) or record.state not in ("died", "unhealthy"):
                raise NotWanted
            claim(record)
            counted(record)

        def counted(record: Deployment) -> None:
            record.restarts = deployment.restarts + 1

        with Store(self.store.folder) as store:
            try:
                mended = again(deployment.name, store, _silent, once_more, smoke=False)
            except NotWanted:
                return
            except DeploytoolError as error:
                # A claim that was refused (its port is another one's now) was not counted yet.
                store.change(deployment.id, counted)
                self.progress(f"{deployment.name}: its restart failed: {error.message}")
                return
        number = f"restart {mended.restarts} of at most {self.patience.most_restarts}"
        self.progress(f"{deployment.name} is ready again after {mended.ready_s:.1f} s ({number})")


def kept(deployment: Deployment) -> bool:
    """Whether it is to be kept up: it was ready once, nobody asked for its end, and nobody gave up on it."""
    was_ready = deployment.proven or deployment.ready_at is not None
    return was_ready and deployment.wanted == "running" and deployment.gave_up is None


def _forgive(record: Deployment) -> None:
    record.restarts = 0


def _silent(_: str) -> None:
    """The stages of a restart are in its log; `watch` tells how it ended."""
