"""A system while it is measured: brought up and proven before, taken down after, whatever happens."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deploytool.bakeoff.config import Bakeoff
from deploytool.bakeoff.looking import Looked, planned, served
from deploytool.bakeoff.progress import Progress
from deploytool.bakeoff.stages import Kept
from deploytool.catalog import Catalog
from deploytool.decision import SetFacts
from deploytool.deployment import UpOptions, down, up
from deploytool.deployment.interrupts import interruptible
from deploytool.evaluation.proving import proven
from deploytool.evaluation.systems import Served
from deploytool.store import Store
from deploytool.telemetry.sampler import MemorySampler

NOT_OURS = "memory is measured of servers on this machine that deploytool started"


@dataclass(frozen=True)
class OpenSet:
    """A data set that was read: `name` and `split` open it again, `label` is its name in the table."""

    name: str
    split: str
    label: str
    fingerprint: str
    facts: SetFacts


@dataclass(frozen=True)
class Surroundings:
    """What all systems of a bake-off are measured with."""

    config: Bakeoff
    store: Store
    catalog: Catalog
    kept: Kept
    progress: Progress
    sets: tuple[OpenSet, ...]
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """A system that answers."""

    served: Served
    findings: tuple[str, ...] = ()

    def sampler(self) -> MemorySampler | None:
        """What samples its memory; None where the server is not ours to look at."""
        deployment = self.served.resolved.deployment
        if deployment is None or deployment.process is None:
            return None
        return MemorySampler(
            deployment.process.pid, deployment.launch.devices, no_devices_reason=deployment.no_card
        )


@contextmanager
def opened(looked: Looked, around: Surroundings) -> Iterator[Target]:
    """The system, proven. What was brought up for it is taken down, also where it failed or Ctrl-C came.

    Raises what `up` raises; Unhealthy where the endpoint's vectors are not right.
    """
    system = looked.system
    if looked.prepared is None:
        yield _proven(served(system, system.subject, around.store, around.catalog, around.environ), around)
        return
    name = f"bakeoff-{system.name}-{uuid.uuid4().hex[:6]}"
    around.kept.is_up(name)
    try:
        prepared = planned(system, around.catalog, verify=True)
        options = UpOptions(name=name, wait_s=system.wait_s, profiles_dir=around.catalog.profiles_dir)
        up(prepared, options, around.store, around.progress.note, tick=around.progress.tick)
        yield Target(served(system, name, around.store, around.catalog, around.environ))
    finally:
        take_down(name, around.store, around.kept, around.progress)


def _proven(found: Served, around: Surroundings) -> Target:
    around.progress.note(f"proving the vectors of {found.target}")
    with found.resolved.client() as client:
        return Target(found, tuple(proven(found, client, around.catalog.profiles_dir)))


def take_down(name: str, store: Store, kept: Kept, progress: Progress) -> None:
    """End a server of ours where it is there, and only then forget that it was up. A signal waits for it."""
    pressed: list[Any] = []
    with interruptible() as interrupts:
        interrupts.cleaning(lambda: pressed.append(name))
        if any(deployment.name == name for deployment in store.deployments()):
            down([name], store, progress.note)
        kept.is_down(name)
    if pressed:
        raise KeyboardInterrupt


def take_down_left_over(store: Store, kept: Kept, progress: Progress) -> None:
    """What a bake-off that was killed left running."""
    for name in kept.up():
        progress.note(f"{name} was left by a bake-off that was killed")
        take_down(name, store, kept, progress)
