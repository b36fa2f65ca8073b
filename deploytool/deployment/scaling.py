"""`scale`: more or fewer replicas behind an endpoint while it serves, and no request is dropped.

More: each is started and proven before the router is told of it. Fewer: the router lets it go, it finishes what it
has, and only then is it stopped; one that does not serve goes first, then the one with the highest number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deploytool.catalog import Catalog
from deploytool.deployment.bring_up import UpOptions
from deploytool.deployment.ending import down
from deploytool.deployment.keys import recorded_key
from deploytool.deployment.refreshing import refresh
from deploytool.deployment.replicas import replica, start_replicas
from deploytool.deployment.routing import number, replicas_of
from deploytool.deployment.starting import Say
from deploytool.errors import BadInput, NotAvailable, Unhealthy
from deploytool.records import Deployment
from deploytool.store import Store
from deploytool.telemetry.nvml import detect
from deploytool.telemetry.presence import of_profile


def scale(name: str, count: int, store: Store, progress: Say, *, wait_s: float | None = None) -> Deployment:
    """Have `count` replicas behind the endpoint; returns the endpoint.

    BadInput where it is no endpoint, Unhealthy where it does not serve, NotAvailable where cards lack; a start that
    fails raises as `up` does, and leaves the replicas that were there.
    """
    refresh(store)
    endpoint = store.deployment(name)
    if not endpoint.is_endpoint:
        raise BadInput(
            f"{name} is one server: there is no endpoint to put more behind",
            hint=f"take it down, then `deploytool up ... --name {name} --replicas {count}`",
        )
    if endpoint.state != "ready":
        raise Unhealthy(
            f"{name} is {endpoint.state}{f': {endpoint.reason}' if endpoint.reason else ''}",
            hint=f"`deploytool restart {name}` first",
        )
    there = replicas_of(name, store)
    if count > len(there):
        _more(endpoint, there, count - len(there), store, progress, wait_s)
    elif count < len(there):
        _fewer(there, len(there) - count, store, progress)
    return _on_its_cards(endpoint, store)


def _more(
    endpoint: Deployment,
    there: Sequence[Deployment],
    more: int,
    store: Store,
    progress: Say,
    wait_s: float | None,
) -> None:
    if not there:
        raise Unhealthy(
            f"{endpoint.name} has no replica to take as the pattern", hint="take it down and up again"
        )
    like = there[0]
    key = recorded_key(like, os.environ)
    taken = {number(one) for one in there}
    places = [place for place in range(1, len(there) + more + 1) if place not in taken][:more]
    cards = _free_cards(like, more, store)
    added = [
        replica(like, endpoint.name, place, devices) for place, devices in zip(places, cards, strict=True)
    ]
    options = UpOptions(runtime=like.runtime, wait_s=wait_s)
    start_replicas(added, options, store, progress, key)


def _free_cards(like: Deployment, more: int, store: Store) -> list[tuple[int, ...]]:
    """Cards for so many servers like that one, of its profile and of no deployment of ours; most free first."""
    each = len(like.launch.devices)
    if not each:
        return [()] * more
    catalog = Catalog(Path(like.profiles_dir) if like.profiles_dir else None)
    held = {
        index
        for one in store.deployments()
        if one.state not in ("stopped", "died")
        for index in one.launch.devices
    }
    free = [
        gpu.index
        for gpu in of_profile(catalog.hardware(like.profile), detect().gpus)
        if gpu.index not in held
    ]
    if len(free) < each * more:
        raise NotAvailable(
            f"{more} more of {like.model} take {each * more} cards ({each} each), and {len(free)} of the profile"
            f" {like.profile} are not taken by a deployment",
            hint="scale to fewer, or take another deployment down",
        )
    return [tuple(sorted(free[place * each : (place + 1) * each])) for place in range(more)]


def _fewer(there: Sequence[Deployment], fewer: int, store: Store, progress: Say) -> None:
    order = sorted(there, key=lambda one: (one.state == "ready", -number(one)))
    for one in order[:fewer]:
        down([one.name], store, progress)


def _on_its_cards(endpoint: Deployment, store: Store) -> Deployment:
    """The endpoint's record with the cards of all its replicas: a load measures the memory of those."""
    devices = tuple(
        sorted({index for one in replicas_of(endpoint.name, store) for index in one.launch.devices})
    )

    def on(record: Deployment) -> None:
        record.launch = record.launch.model_copy(update={"devices": devices})

    return store.change(endpoint.id, on) or store.deployment(endpoint.name)
