"""Several replicas of a model and one endpoint in front: brought up, restarted, scaled.

The endpoint is the deployment NAME: sglang-router, always a process. Its replicas are deployments NAME-1, NAME-2, ...
with `group` NAME, on the loopback address, each started and proven as any other, with cards that no other has. The
router is told of a replica once that is proven, and told to let it go before it is stopped.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from deploytool.deployment.bring_up import (
    UpOptions,
    again,
    checked_name,
    claim_anew,
    record,
    reserve,
    start_reserved,
)
from deploytool.deployment.ending import down
from deploytool.deployment.interrupts import interruptible
from deploytool.deployment.keys import Key
from deploytool.deployment.routing import leave, replicas_of, router_of
from deploytool.deployment.starting import Say, Start
from deploytool.engines import sglang_router
from deploytool.errors import missing_extra
from deploytool.identity import myself
from deploytool.records import Deployment
from deploytool.runtimes import runtime
from deploytool.store import Store, now

if TYPE_CHECKING:
    from deploytool.plans import Prepared

LOOPBACK = "127.0.0.1"


def up_replicas(
    prepared: Prepared,
    options: UpOptions,
    store: Store,
    progress: Say,
    *,
    key: Key | None = None,
    tick: Say | None = None,
) -> Deployment:
    """Bring `options.replicas` up at once, each proven by itself, then the endpoint; returns the endpoint.

    The plan's devices are shared out in order. Where one fails none is left, unless `keep_failed` was asked for.
    Raises as `up` does; NotAvailable where sglang-router is missing.
    """
    if sglang_router.installed() is None:
        raise missing_extra("sglang-router", "router", "--replicas")
    first = record(prepared, options, key)
    runtime(options.runtime).check(first)
    endpoint = _endpoint(first)
    cards = prepared.plan.cards if first.launch.devices else 0
    replicas = [
        replica(first, endpoint.name, place + 1, first.launch.devices[place * cards : (place + 1) * cards])
        for place in range(options.replicas)
    ]
    with interruptible() as interrupts:
        start = Start(endpoint, store, key, progress, tick)
        interrupts.hold()
        reserve(endpoint, store)
        try:
            ready = start_reserved(
                start, options, interrupts, lambda: start_replicas(replicas, options, store, progress, key)
            )
            _all_taken_in(ready, replicas, store)
        except BaseException:
            interrupts.cleaning(lambda: None)
            if not options.keep_failed:
                _end([endpoint, *replicas], store)
            raise
    return ready


def _endpoint(like: Deployment) -> Deployment:
    """The record of the router in front of servers like that one, at the address that was asked for."""
    launch = sglang_router.launch(like.launch, like.launch.host, like.launch.port)
    launch = launch.model_copy(update={"devices": like.launch.devices})
    plan = {**like.plan, "argv": list(launch.argv), "command": launch.command()}
    return like.model_copy(
        update={"runtime": "process", "launch": launch, "plan": plan, "memory": {}}, deep=True
    )


def replica(like: Deployment, group: str, place: int, devices: Sequence[int]) -> Deployment:
    """The record of one more server like that one, about to start on a free port and those cards."""
    launch = like.launch.at_host(LOOPBACK).with_port(0).model_copy(update={"devices": tuple(devices)})
    estimate = {"estimate": like.memory["estimate"]} if "estimate" in like.memory else {}
    anew = {
        "id": uuid.uuid4().hex[:12],
        "name": checked_name(f"{group}-{place}", like.model),
        "group": group,
        "state": "starting",
        "created_at": now(),
        "owner": myself(),
        "launch": launch,
        "memory": estimate,
        "wanted": "running",
        "proven": False,
        "restarts": 0,
    }
    empty = dict.fromkeys(
        ("reason", "ready_at", "ready_s", "process", "supervisor", "container", "exit_status", "gave_up")
    )
    return like.model_copy(update=anew | empty, deep=True)


def start_replicas(
    replicas: Sequence[Deployment], options: UpOptions, store: Store, progress: Say, key: Key | None
) -> None:
    """Start all at once; where one fails, end the others and raise its error. Nothing is left of them then.

    Their names and ports are taken before the first thread runs, so that an end finds all of them.
    """
    alone = options.model_copy(update={"smoke": False, "replicas": 1})

    def start(one: Deployment) -> Deployment:
        with Store(store.folder) as own, interruptible() as interrupts:
            return start_reserved(Start(one, own, key, _named(one, progress), None), alone, interrupts)

    kept = False
    with interruptible() as interrupts:
        interrupts.hold()
        try:
            for one in replicas:
                reserve(one, store)
            interrupts.release()
            kept = options.keep_failed
            _at_once(start, replicas, lambda: None if kept else _end(replicas, store))
        except BaseException:
            if not kept:
                _end(replicas, store)
            raise


def _end(replicas: Sequence[Deployment], store: Store) -> None:
    known = {one.id for one in store.deployments()}
    names = [one.name for one in replicas if one.id in known]
    if names:
        down(names, store, lambda _: None)


def _at_once(
    work: Callable[[Deployment], Deployment], replicas: Sequence[Deployment], undo: Callable[[], None]
) -> None:
    """Do it for all in threads; the first error, or Ctrl-C, undoes and is raised once all have ended."""
    with ThreadPoolExecutor(max_workers=max(1, len(replicas))) as pool:
        try:
            doing: list[Future[Deployment]] = [pool.submit(work, one) for one in replicas]
            done, _ = wait(doing, return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
        except BaseException:
            undo()
            raise


def _named(one: Deployment, progress: Say) -> Say:
    return lambda line: progress(f"[{one.name}] {line}")


def _all_taken_in(endpoint: Deployment, replicas: Sequence[Deployment], store: Store) -> None:
    """Wait until the router sends requests to every one of them."""
    with router_of(endpoint, os.environ) as router:
        for one in replicas:
            router.add(store.deployment(one.name).launch.url, endpoint.launch.model)


def restart_all(
    endpoint: Deployment, store: Store, progress: Say, *, wait_s: float | None, smoke: bool, tick: Say | None
) -> Deployment:
    """While the endpoint serves: its replicas one after the other, the router stays. Else: all, then the router."""
    replicas = replicas_of(endpoint.name, store)
    if endpoint.state == "ready":
        for one in replicas:
            leave(one, store, os.environ)
            again(one.name, store, _named(one, progress), claim_anew, wait_s=wait_s, smoke=False)
        return store.deployment(endpoint.name)

    def start(one: Deployment) -> Deployment:
        with Store(store.folder) as own:
            return again(one.name, own, _named(one, progress), claim_anew, wait_s=wait_s, smoke=False)

    _at_once(start, replicas, lambda: None)
    return again(endpoint.name, store, progress, claim_anew, wait_s=wait_s, smoke=smoke, tick=tick)
