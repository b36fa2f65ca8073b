"""One deployment as `up` takes it, by flags or by a file: planned, looked over, brought up."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.cli.output import note
from deploytool.cli.plan_options import cards_asked, show_misfit
from deploytool.cli.up_container import Containing
from deploytool.deployment import Key, UpOptions
from deploytool.deployment import up as bring_up
from deploytool.errors import BadInput
from deploytool.hardware import Scalar
from deploytool.plans import PlanDoesNotFit, Prepared, prepare, resolve_alias

if TYPE_CHECKING:
    from deploytool.cli.deploy_view import Narrator
    from deploytool.records import Deployment
    from deploytool.store import Store


class Wish(NamedTuple):
    """What is to be started and how. `look` False: nothing of this machine is looked at before."""

    model: str
    profile: str
    engine: str
    flags: Mapping[str, Scalar]
    from_file: Mapping[str, Scalar]
    gpus: tuple[int, ...] | None
    key: Key | None
    how: Containing
    options: UpOptions
    look: bool


def plan(wish: Wish, catalog: Catalog, *, dry_run: bool, json: bool = False) -> Prepared:
    """Its plan, as a container's where it is to be one. One that does not fit is shown and raised.

    Where nothing is looked at, it is only warned of, unless nothing but the plan was asked for.
    """
    try:
        prepared = _prepared(wish, catalog, verify=not dry_run)
    except PlanDoesNotFit as error:
        if wish.look or dry_run:
            show_misfit(error, json=json)
            raise
        note(f"warning: {error.message}; started all the same")
        prepared = error.prepared
    return wish.how.plan(prepared)


def start(wish: Wish, prepared: Prepared, catalog: Catalog, store: Store, narrator: Narrator) -> Deployment:
    """Look the machine over, have the image here, bring it up; the deployment, ready and proven."""
    warnings = list(prepared.plan.warnings)
    if wish.look:
        warnings += preflight.check(
            prepared, gpus=wish.gpus, profiles=catalog.hardware_profiles(), engine_here=not wish.how.docker
        )
    for warning in warnings:
        note(f"warning: {warning}")
    wish.how.obtain(prepared, narrator)
    try:
        return bring_up(
            _on_cards(prepared, wish.gpus),
            wish.options,
            store,
            narrator.line,
            key=wish.key,
            tick=narrator.tick,
        )
    finally:
        narrator.clear()


def _prepared(wish: Wish, catalog: Catalog, *, verify: bool) -> Prepared:
    """The plan, compared with what is free now unless that is not to be looked at."""
    hardware = resolve_alias(catalog.hardware(wish.profile), catalog)
    if hardware.kind == "cpu" and wish.gpus:
        raise BadInput(
            "--gpu: the profile cpu uses no card", hint="leave --gpu out, or take a card's profile"
        )
    count = cards_asked({**wish.from_file, **wish.flags})
    live = preflight.live(hardware, gpus=wish.gpus, count=count) if wish.look else None
    gpus = len(wish.gpus) if wish.gpus else len(live.gpus) if live else 0
    with preflight.naming_holders(live) if live else nullcontext():
        return prepare(
            wish.model,
            wish.profile,
            engine=wish.engine,
            flags=wish.flags,
            deployment_file=wish.from_file,
            with_key=wish.key is not None,
            catalog=catalog,
            free_mib=live.free_mib if live else None,
            gpus=gpus or None,
            verify=verify,
        )


def _on_cards(prepared: Prepared, gpus: tuple[int, ...] | None) -> Prepared:
    """The plan on the cards asked for, else on those of the profile with most free memory."""
    if prepared.hardware.kind == "cpu":
        return prepared
    plan = prepared.plan
    devices = gpus or preflight.choose(prepared.hardware, plan.cards) or plan.launch.devices
    launch = plan.launch.model_copy(update={"devices": devices[: plan.cards]})
    return prepared._replace(plan=plan.model_copy(update={"launch": launch}))
