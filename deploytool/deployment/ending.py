"""Stop and down: end a deployment's processes, and only them; say so where there was nothing to end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from deploytool.deployment.refreshing import strays
from deploytool.deployment.routing import leave, replicas_of
from deploytool.errors import BadInput, DeploytoolError, UnknownName
from deploytool.records import Deployment
from deploytool.runtimes import runtime
from deploytool.store import Store, now

GRACE_S = 10.0

Progress = Callable[[str], None]


def stop(name: str, store: Store) -> Deployment:
    """End the server and keep the record and its log. Stopping what is stopped is fine.

    An endpoint is stopped with its replicas; one replica leaves the endpoint first.
    """
    deployment = store.deployment(name)
    replicas = replicas_of(name, store) if deployment.is_endpoint else []
    for one in (deployment, *replicas):
        _mark_stopping(one, store)
    stopped = _stop(deployment, store)
    for one in replicas:
        _stop(one, store)
    return stopped


def _stop(deployment: Deployment, store: Store) -> Deployment:
    was_running = deployment.state not in ("stopped", "died")
    leave(deployment, store, os.environ)
    _end(deployment, store)
    seen = runtime(deployment.runtime).observe(deployment, store.folder_of(deployment.id))

    def stopped(record: Deployment) -> None:
        if was_running or record.state != "stopped":
            record.reason = f"stopped at {now()}"
        record.state, record.exit_status = "stopped", seen.exit_status
        record.process = record.supervisor = record.container = record.owner = None

    changed = store.change(deployment.id, stopped)
    if changed is None:
        raise UnknownName("deployment", deployment.name, [], hint="it was taken down meanwhile")
    return changed


def down(names: Sequence[str], store: Store, progress: Progress, *, everything: bool = False) -> list[str]:
    """End and forget deployments; returns one line for each. What is gone already is said, and no error.

    `everything`: all of them, and whatever carries this tool's mark without a record. Unknown names are
    told before anything is ended; one that cannot be ended does not keep the others. An endpoint goes with its
    replicas; a replica alone leaves the endpoint first.
    """
    if not names and not everything:
        raise BadInput("nothing to take down was named", hint="name deployments, or say --all")
    found, lines = _chosen(names, store, everything)
    for deployment in found:
        _mark_stopping(deployment, store)
        progress(f"taking {deployment.name} down ...")
    for deployment in found:
        if deployment.group not in {one.name for one in found}:
            leave(deployment, store, os.environ)
    errors: list[DeploytoolError] = []
    with ThreadPoolExecutor(max_workers=8) as pool:
        endings = [pool.submit(_end, deployment, store) for deployment in found]
        for deployment, ending in zip(found, endings, strict=True):
            try:
                ending.result()
            except DeploytoolError as error:
                errors.append(error)
                continue
            store.forget(deployment.name, deployment.id)
            gone = deployment.state in ("stopped", "died")
            lines.append(f"{deployment.name}: {'was gone already, forgotten' if gone else 'down'}")
    if everything:
        lines += _end_strays(store)
    if errors:
        raise errors[0]
    return lines


def _chosen(names: Sequence[str], store: Store, everything: bool) -> tuple[list[Deployment], list[str]]:
    """The deployments meant, and lines on those that are down already."""
    if everything:
        return store.deployments(), []
    found, lines = [], []
    for name in dict.fromkeys(names):
        replicas = replicas_of(name, store)
        try:
            found.append(store.deployment(name))
        except UnknownName:
            since = store.forgotten_at(name)
            if since is None and not replicas:
                raise
            if not replicas:
                lines.append(f"{name}: is down already, since {since}")
        found += [one for one in replicas if one.name not in names]
    return found, lines


def _mark_stopping(deployment: Deployment, store: Store) -> None:
    """Say first what is wanted: whoever is killed next, the following command knows."""

    def wanted(record: Deployment) -> None:
        record.wanted = "stopped"

    store.change(deployment.id, wanted)


def _end(deployment: Deployment, store: Store) -> None:
    folder = store.folder_of(deployment.id)
    runtime(deployment.runtime).stop(deployment, folder, GRACE_S)


def _end_strays(store: Store) -> list[str]:
    lines = []
    for name, stray in strays(store):
        runtime(name).end_stray(stray, store.folder, GRACE_S)
        lines.append(f"(no record) {stray.id}: ended {stray.what}")
    return lines
