"""The true state of every deployment, whoever was killed: what is there is looked at, never assumed.

What can be found, and what becomes of it:

    its `up` is at work                        left alone
    alive, answers                             ready (an orphaned start is proven first, and adopted)
    alive, does not answer                     unhealthy; an orphaned start: starting, with what to do
    gone                                       died, with why; where a stop was asked for: stopped
    pid used by a stranger now                 died; the stranger is named and never touched
    marked processes without a record          strays: named by `ps`, ended by `down --all`
"""

from __future__ import annotations

import contextlib
import os
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from deploytool.errors import DeploytoolError
from deploytool.identity import is_alive
from deploytool.runtimes import RUNTIMES, Observation, Stray, runtime
from deploytool.store import Store, now

if TYPE_CHECKING:
    from deploytool.probes import Probe
    from deploytool.records import Deployment, DeploymentState

LOOKERS = 16


@dataclass(frozen=True)
class Truth:
    """What was seen of one deployment."""

    observation: Observation
    state: DeploymentState
    reason: str | None


def refresh(store: Store) -> list[Deployment]:
    """Look at all deployments at once, write down what changed, return them as they are."""
    return _refreshed(store.deployments(), store)


def refresh_one(name: str, store: Store) -> Deployment:
    """The same for one deployment, an endpoint with its replicas; UnknownName where there is none."""
    from deploytool.deployment.routing import replicas_of

    found = [store.deployment(name), *replicas_of(name, store)]
    mended = _refreshed(found, store)
    return next((one for one in mended if one.id == found[0].id), None) or store.deployment(name)


def _refreshed(deployments: list[Deployment], store: Store) -> list[Deployment]:
    return _written(deployments, _looked(deployments, store), store)


def _written(deployments: list[Deployment], truths: list[Truth], store: Store) -> list[Deployment]:
    mended = [_write(*pair, store) for pair in zip(deployments, truths, strict=True)]
    return [deployment for deployment in mended if deployment is not None]


def listed(store: Store) -> list[Deployment]:
    """`refresh` for who only shows them: where nothing is to be written down, Glances, in half the time."""
    glances = store.glances()
    if glances is None:
        return refresh(store)
    deployments = [cast("Deployment", one) for one in glances]  # read, and told, as Deployments are
    truths = _looked(deployments, store)
    if all(_is_known(*pair) for pair in zip(deployments, truths, strict=True)):
        return deployments
    records = store.deployments()
    if [one.model_dump_json() for one in records] != [one.document for one in glances]:
        return refresh(
            store
        )  # changed since, or written by another version: what was seen was of another record
    return _written(records, truths, store)


def _is_known(deployment: Deployment, truth: Truth) -> bool:
    """Whether the record says what was seen."""
    if is_alive(deployment.owner):
        return True
    after = copy(deployment)
    _mend(after, truth)
    return vars(after) == vars(deployment)


def _looked(deployments: list[Deployment], store: Store) -> list[Truth]:
    """What was seen of each, all of them looked at at once."""
    if len(deployments) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=min(LOOKERS, len(deployments))) as pool:
            truths = list(pool.map(lambda one: look(one, store), deployments))
    else:
        truths = [look(one, store) for one in deployments]
    return [
        _with_replicas(one, truth, deployments, truths)
        for one, truth in zip(deployments, truths, strict=True)
    ]


def _with_replicas(
    endpoint: Deployment, truth: Truth, deployments: list[Deployment], truths: list[Truth]
) -> Truth:
    """An endpoint that serves says which of its replicas do not."""
    if not endpoint.is_endpoint or truth.state not in ("ready", "unhealthy"):
        return truth
    states = {
        one.name: seen.state
        for one, seen in zip(deployments, truths, strict=True)
        if one.group == endpoint.name
    }
    missing = [f"{name} {state}" for name, state in states.items() if state != "ready"]
    if not missing:
        return truth
    few = f"{len(states) - len(missing)} of {len(states)} replicas are ready: {', '.join(missing)}"
    return replace(truth, reason=f"{truth.reason}; {few}" if truth.reason else few)


def strays(store: Store) -> list[tuple[str, Stray]]:
    """Whatever carries the mark of this state folder and has no record, with the runtime that found it."""
    known = store.ids()
    return [(name, stray) for name, one in RUNTIMES.items() for stray in one.strays(store.folder, known)]


def look(deployment: Deployment, store: Store) -> Truth:
    """See one deployment as it is. Reads only; may be called from any thread."""
    folder = store.folder_of(deployment.id)
    seen = runtime(deployment.runtime).observe(deployment, folder)
    if is_alive(deployment.owner):
        return Truth(seen, deployment.state, deployment.reason)
    if not seen.alive:
        return Truth(seen, *_gone(deployment, seen))
    if deployment.wanted == "stopped":
        return Truth(seen, "unhealthy", f"a stop was cut off: `deploytool stop {deployment.name}` again")
    return Truth(seen, *_alive(deployment, seen, store))


def _gone(deployment: Deployment, seen: Observation) -> tuple[DeploymentState, str]:
    reason = seen.reason or "gone"
    if seen.leftovers:
        pids = ", ".join(map(str, seen.leftovers))
        reason += f"; processes of it are left (pid {pids}): `deploytool down {deployment.name}` ends them"
    if deployment.wanted == "stopped":
        asked = deployment.state == "stopped" and deployment.reason and not seen.leftovers
        return "stopped", deployment.reason if asked and deployment.reason else f"stopped: {reason}"
    if deployment.state == "died" and deployment.reason and not seen.leftovers:
        return "died", deployment.reason
    if deployment.state == "starting":
        reason = f"its `up` was killed, and so: {reason}" if seen.running is None else reason
    return "died", reason


def _alive(deployment: Deployment, seen: Observation, store: Store) -> tuple[DeploymentState, str | None]:
    from deploytool.probes.liveness import alive

    readiness = deployment.launch.readiness
    probe = alive(deployment.launch.url, readiness.path, readiness.probe_timeout_s)
    if deployment.state == "starting":
        if deployment.is_endpoint and not probe.ok:
            _take_in_again(deployment, store)
        return _orphaned_start(deployment, probe)
    if deployment.ready_at is None:
        # Kept although its proof failed: that it answers makes it no better.
        return "unhealthy", deployment.reason
    if probe.ok:
        return "ready", seen.reason
    odd = f"{seen.reason}; " if seen.reason else ""
    return "unhealthy", f"{odd}{readiness.path}: {probe.reason}; see `deploytool logs {deployment.name}`"


def _take_in_again(endpoint: Deployment, store: Store) -> None:
    """Its `up` was killed before it told the router of the replicas: done now, or at the next look."""
    from deploytool.deployment.routing import take_in

    with contextlib.suppress(DeploytoolError), Store(store.folder) as own:
        take_in(endpoint, own, os.environ)


def _orphaned_start(deployment: Deployment, probe: Probe) -> tuple[DeploymentState, str | None]:
    """Its `up` was killed, the server lives: ready once it answers and its vectors are proven."""
    down = f"or `deploytool down {deployment.name}`"
    if not probe.ok:
        return "starting", f"its `up` was killed, the server still loads ({probe.reason}): wait, {down}"
    from deploytool.deployment.proof import proven

    try:
        proven(deployment, os.environ)
    except DeploytoolError as error:
        if error.exit_code == 2:
            return "starting", f"its `up` was killed, and it cannot be proven: {error.message}; mend, {down}"
        return "unhealthy", f"its `up` was killed, and it is not right: {error.message}; {down}"
    return "ready", None


def _write(deployment: Deployment, truth: Truth, store: Store) -> Deployment | None:
    """Store what was seen, unless another command wrote meanwhile; None where it was forgotten."""
    if is_alive(deployment.owner):
        return deployment
    before = deployment.model_dump_json()

    def apply(record: Deployment) -> None:
        if record.model_dump_json() == before:
            _mend(record, truth)

    after = deployment.model_copy(deep=True)
    apply(after)
    if after.model_dump_json() == before:
        return deployment
    return store.change(deployment.id, apply)


def _mend(record: Deployment, truth: Truth) -> None:
    """Put what was seen into a record."""
    seen = truth.observation
    if truth.state == "ready" and record.state == "starting":
        record.ready_at, record.proven = now(), True
    record.state, record.reason, record.owner = truth.state, truth.reason, None
    record.exit_status = seen.exit_status
    if seen.running is not None and seen.alive:
        record.process, record.supervisor = seen.running.process, seen.running.supervisor
        record.container = seen.running.container
