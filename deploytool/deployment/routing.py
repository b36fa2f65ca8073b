"""Replicas and the router in front of them: who belongs together, and who gets requests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deploytool.deployment.keys import recorded_key
from deploytool.errors import DeploytoolError
from deploytool.records import Deployment
from deploytool.store import Store

if TYPE_CHECKING:
    from deploytool.router_api import RouterApi, Worker

# What the router handed out before it let a worker go has reached that worker within it.
SETTLE_S = 1.0


def replicas_of(name: str, store: Store) -> list[Deployment]:
    """The replicas of an endpoint, by their numbers."""
    return sorted((one for one in store.deployments() if one.group == name), key=number)


def number(replica: Deployment) -> int:
    """3 of NAME-3."""
    found = re.search(r"-(\d+)$", replica.name)
    return int(found.group(1)) if found else 0


def router_of(endpoint: Deployment, environ: Mapping[str, str]) -> RouterApi:
    """A client of the router's control interface, with the endpoint's key."""
    from deploytool.router_api import RouterApi  # httpx: `ps` without replicas does without

    key = recorded_key(endpoint, environ)
    return RouterApi(endpoint.launch.url, key.value if key else None)


def take_in(endpoint: Deployment, store: Store, environ: Mapping[str, str]) -> None:
    """Tell a router of all replicas that are ready, and of no other."""
    ready = {one.launch.url for one in replicas_of(endpoint.name, store) if one.state == "ready"}
    with router_of(endpoint, environ) as router:
        for url in sorted(router.workers().keys() - known_urls(endpoint, store)):
            router.remove(url)
        for url in sorted(ready - router.workers().keys()):
            router.offer(url, endpoint.launch.model)


def known_urls(endpoint: Deployment, store: Store) -> set[str]:
    """Addresses of all its replicas, whatever their state: the router itself sees which of them answer."""
    return {one.launch.url for one in replicas_of(endpoint.name, store)}


def join(
    replica: Deployment, store: Store, environ: Mapping[str, str], progress: Callable[[str], None]
) -> None:
    """Tell the router of a replica that became ready; where the router is not up, its own start will see it."""
    endpoint = endpoint_of(replica, store)
    if endpoint is None or endpoint.process is None:
        return
    try:
        with router_of(endpoint, environ) as router:
            router.add(replica.launch.url, replica.launch.model)
    except DeploytoolError as error:
        if endpoint.state == "ready":
            progress(f"{replica.name} is not behind {endpoint.name}: {error.message}")


def leave(replica: Deployment, store: Store, environ: Mapping[str, str]) -> None:
    """Before a replica is stopped: no new requests for it, and time for those on their way to reach it.

    The engines finish what they have on SIGTERM. Nothing to do where the router is down.
    """
    endpoint = endpoint_of(replica, store)
    if endpoint is None or endpoint.state not in ("ready", "unhealthy"):
        return
    try:
        with router_of(endpoint, environ) as router:
            left = router.remove(replica.launch.url)
    except DeploytoolError:
        return
    if left and replica.state == "ready":
        time.sleep(SETTLE_S)


def endpoint_of(replica: Deployment, store: Store) -> Deployment | None:
    """The router's record; None where there is none."""
    return next((one for one in store.deployments() if one.name == replica.group and one.is_endpoint), None)


def seen_by_router(endpoint: Deployment, environ: Mapping[str, str]) -> dict[str, Worker]:
    """What the router says of its workers, by URL; empty where it says nothing."""
    try:
        with router_of(endpoint, environ) as router:
            return router.workers()
    except DeploytoolError:
        return {}
