"""Up and restart: reserve, start, and leave nothing half-started behind."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from deploytool.deployment.failures import keep_log
from deploytool.deployment.interrupts import Interrupts, interruptible
from deploytool.deployment.keys import Key, recorded_key
from deploytool.deployment.ports import check_port, free_port
from deploytool.deployment.routing import leave
from deploytool.deployment.starting import Say, Start
from deploytool.errors import BadInput, DeploytoolError, Interrupted, StartFailed, Taken
from deploytool.identity import is_alive, myself
from deploytool.records import Deployment
from deploytool.runtimes import runtime
from deploytool.schema import Document
from deploytool.store import Store, now

if TYPE_CHECKING:
    from deploytool.plans import Prepared

CLEANUP_GRACE_S = 5.0
PORT_TRIES = 20
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class UpOptions(Document):
    """How to bring a plan up; what to bring up is the plan's."""

    name: str | None = None
    runtime: str = "process"
    wait_s: float | None = None
    smoke: bool = True
    keep_failed: bool = False
    replicas: int = Field(default=1, ge=1, description="over 1: the plan's devices are those of all of them")
    profiles_dir: Path | None = None
    from_file: Path | None = None
    slo: str | None = None


def up(
    prepared: Prepared,
    options: UpOptions,
    store: Store,
    progress: Say,
    *,
    key: Key | None = None,
    tick: Say | None = None,
) -> Deployment:
    """Bring a plan up and return it proven. `progress` and `tick`: see starting.py.

    Taken (name, port), StartFailed, Unhealthy or Interrupted otherwise; then nothing is left running, unless
    `keep_failed` was asked for.
    """
    if options.replicas > 1:
        from deploytool.deployment.replicas import up_replicas

        return up_replicas(prepared, options, store, progress, key=key, tick=tick)
    deployment = record(prepared, options, key)
    runtime(options.runtime).check(deployment)
    with interruptible() as interrupts:
        start = Start(deployment, store, key, progress, tick)
        interrupts.hold()
        reserve(deployment, store)
        return start_reserved(start, options, interrupts)


def start_reserved(
    start: Start, options: UpOptions, interrupts: Interrupts, first: Callable[[], None] | None = None
) -> Deployment:
    """Start what has its name and port; `first` is done before that. Cleaned up where either fails.

    A signal since the name was taken should have been held; it is released here.
    """
    deployment, store = start.deployment, start.store
    try:
        interrupts.release()
        if deployment.launch.port:
            check_port(deployment.launch.host, deployment.launch.port)
        if first is not None:
            first()
        return start.run(wait_s=options.wait_s, smoke=options.smoke)
    except BaseException as error:
        interrupts.cleaning(lambda: _kill(deployment, store))
        raise _after_failure(deployment, store, error, keep=options.keep_failed) from error


def restart(
    name: str,
    store: Store,
    progress: Say,
    *,
    wait_s: float | None = None,
    smoke: bool = True,
    tick: Say | None = None,
) -> Deployment:
    """End it where it runs, start it again as it was. Its record stays, whatever happens.

    An endpoint's replicas are restarted one after the other while it serves; see replicas.py.
    """
    deployment = store.deployment(name)
    if deployment.is_endpoint:
        from deploytool.deployment.replicas import restart_all

        return restart_all(deployment, store, progress, wait_s=wait_s, smoke=smoke, tick=tick)
    leave(deployment, store, os.environ)
    return again(name, store, progress, claim_anew, wait_s=wait_s, smoke=smoke, tick=tick)


def again(
    name: str,
    store: Store,
    progress: Say,
    claim: Callable[[Deployment], None],
    *,
    wait_s: float | None = None,
    smoke: bool = True,
    tick: Say | None = None,
) -> Deployment:
    """`restart`, once `claim` has made this command the one at work on the record; what it raises is raised."""
    deployment = store.deployment(name)
    key = recorded_key(deployment, os.environ)
    served_by, folder = runtime(deployment.runtime), store.deployment_folder(deployment.id)
    with interruptible() as interrupts:
        interrupts.hold()
        deployment = store.change(deployment.id, claim) or store.deployment(name)
        try:
            interrupts.release()
            served_by.stop(deployment, folder, CLEANUP_GRACE_S * 2)
            check_port(deployment.launch.host, deployment.launch.port)
            start = Start(deployment, store, key, progress, tick)
            return start.run(wait_s=wait_s, smoke=smoke)
        except BaseException as error:
            interrupts.cleaning(lambda: _kill(deployment, store))
            _end(deployment, store)
            _mark(deployment, store, "died", f"its restart failed: {_why(error)}")
            raise _told(error, f"{name} is not running; its record is kept") from error


def claim_anew(record: Deployment) -> None:
    """A person asked for it: what `watch` counted begins anew."""
    claim(record)
    record.restarts, record.gave_up = 0, None


def claim(record: Deployment) -> None:
    """Make this command the one at work on it; Taken where another one is."""
    if record.owner is not None and is_alive(record.owner):
        raise Taken(
            f"{record.name} is being started by another command (pid {record.owner.pid})",
            hint=f"wait for it, or `deploytool down {record.name}`",
        )
    record.state, record.wanted, record.owner = "starting", "running", myself()
    record.reason = record.exit_status = record.ready_at = record.ready_s = None


def record(prepared: Prepared, options: UpOptions, key: Key | None) -> Deployment:
    """The record of a deployment that is about to start."""
    plan = prepared.plan
    return Deployment(
        id=uuid.uuid4().hex[:12],
        name=checked_name(options.name, plan.model),
        engine=plan.engine,
        runtime=options.runtime,
        profile=plan.profile,
        model=plan.model,
        state="starting",
        created_at=now(),
        launch=plan.launch,
        plan=plan.document(),
        owner=myself(),
        key_source=key.source if key else None,
        dimensions=prepared.card.dimensions,
        memory={"estimate": plan.memory.model_dump(mode="json")},
        card=prepared.card.model_dump(mode="json"),
        profiles_dir=str(options.profiles_dir.expanduser().absolute()) if options.profiles_dir else None,
        from_file=str(options.from_file.expanduser().absolute()) if options.from_file else None,
        slo=options.slo,
    )


def checked_name(asked: str | None, model: str) -> str:
    """The name asked for, else the model's, as it can be typed in a shell."""
    if asked is not None:
        if not NAME.fullmatch(asked):
            raise BadInput(
                f"{asked!r} cannot be a deployment's name",
                hint="up to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
            )
        return asked
    plain = re.sub(r"[^a-z0-9._-]+", "-", model.rsplit("/", 1)[-1].lower()).strip("-._")[:63]
    return plain or "model"


def reserve(deployment: Deployment, store: Store) -> None:
    """Take the name and the port in one step; where the port is to be chosen, choose until one is free."""
    if deployment.launch.port:
        store.reserve(deployment)
        return
    spec = deployment.launch
    for attempt in range(PORT_TRIES):
        deployment.launch = spec.with_port(free_port(spec.host))
        deployment.plan = {
            **deployment.plan,
            "argv": list(deployment.launch.argv),
            "command": deployment.launch.command(),
        }
        try:
            store.reserve(deployment)
            return
        except Taken as error:
            if "port" not in error.message.split()[:1] or attempt == PORT_TRIES - 1:
                raise


def _after_failure(
    deployment: Deployment, store: Store, error: BaseException, *, keep: bool
) -> BaseException:
    """Clean up after a failed start, or keep it as asked; returns the error to raise."""
    if keep and isinstance(error, DeploytoolError):
        folder = store.folder_of(deployment.id)
        seen = runtime(deployment.runtime).observe(deployment, folder)
        _mark(deployment, store, "unhealthy" if seen.alive else "died", _why(error))
        error.hint = error.hint if isinstance(error, StartFailed) else None
        kept = "still running" if seen.alive else "its record and log"
        return _told(
            error,
            f"kept as asked ({kept}): deploytool logs {deployment.name}, deploytool down {deployment.name}",
        )
    _end(deployment, store)
    log = keep_log(deployment, store)
    if not _asked_to_stop(deployment, store):
        store.forget(deployment.name, deployment.id)
    return _told(error, f"nothing was left running{f'; its whole log: {log}' if log else ''}")


def _asked_to_stop(deployment: Deployment, store: Store) -> bool:
    """Whether another command is ending it: then the record is that command's to keep or to forget."""
    return any(one.wanted == "stopped" for one in store.deployments() if one.id == deployment.id)


def _end(deployment: Deployment, store: Store, grace_s: float = CLEANUP_GRACE_S) -> None:
    folder = store.folder_of(deployment.id)
    runtime(deployment.runtime).stop(deployment, folder, grace_s)


def _kill(deployment: Deployment, store: Store) -> None:
    """A second Ctrl-C: end it at once. The clean-up that was at work finds it gone and goes on."""
    _end(deployment, store, 0.0)


def _mark(deployment: Deployment, store: Store, state: str, reason: str) -> None:
    def marked(record: Deployment) -> None:
        record.state, record.reason, record.owner = state, reason, None  # type: ignore[assignment]

    store.change(deployment.id, marked)


def _why(error: BaseException) -> str:
    return error.message if isinstance(error, DeploytoolError) else "interrupted"


def _told(error: BaseException, outcome: str) -> BaseException:
    """The error with what became of the deployment as its last line."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", details=[outcome])
    if isinstance(error, DeploytoolError):
        error.details = (*error.details, outcome)
    return error
