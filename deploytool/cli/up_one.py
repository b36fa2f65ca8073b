"""One deployment as `up` takes it, by flags or by a file: planned, looked over, brought up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.cli.output import note
from deploytool.cli.plan_options import show_misfit
from deploytool.cli.up_container import Containing
from deploytool.deployment import Key, UpOptions
from deploytool.deployment import up as bring_up
from deploytool.hardware import Scalar
from deploytool.launching import on_cards, planned_here
from deploytool.plans import PlanDoesNotFit, Prepared

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
        prepared = planned_here(
            wish.model,
            wish.profile,
            wish.engine,
            wish.flags,
            catalog,
            gpus=wish.gpus,
            replicas=wish.options.replicas,
            with_key=wish.key is not None,
            look=wish.look,
            verify=not dry_run,
            deployment_file=wish.from_file,
        )
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
            prepared,
            gpus=wish.gpus,
            profiles=catalog.hardware_profiles(),
            engine_here=not wish.how.docker,
            replicas=wish.options.replicas,
        )
    for warning in warnings:
        note(f"warning: {warning}")
    wish.how.obtain(prepared, narrator)
    try:
        return bring_up(
            on_cards(prepared, wish.gpus, wish.options.replicas),
            wish.options,
            store,
            narrator.line,
            key=wish.key,
            tick=narrator.tick,
        )
    finally:
        narrator.clear()
