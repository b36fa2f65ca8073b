"""A plan as this machine could start it now: compared with what is free, on the cards that would be taken."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.errors import BadInput
from deploytool.hardware import Scalar
from deploytool.planning.choices import cards_asked
from deploytool.plans import Prepared, prepare, resolve_alias


def planned_here(
    model: str,
    profile: str,
    engine: str,
    given: Mapping[str, Scalar],
    catalog: Catalog,
    *,
    gpus: tuple[int, ...] | None = None,
    replicas: int = 1,
    with_key: bool = False,
    look: bool = True,
    verify: bool = True,
    deployment_file: Mapping[str, Scalar] | None = None,
) -> Prepared:
    """The plan of one of `replicas`, compared with what is free now unless that is not to be looked at (`look`).

    Raises what `plans.prepare` raises, and BadInput for cards of a profile that has none.
    """
    hardware = resolve_alias(catalog.hardware(profile), catalog)
    if hardware.kind == "cpu" and gpus:
        raise BadInput(
            "--gpu: the profile cpu uses no card", hint="leave --gpu out, or take a card's profile"
        )
    file = deployment_file or {}
    live = (
        preflight.live(hardware, gpus=gpus, count=cards_asked({**file, **given}) * replicas) if look else None
    )
    count = (len(gpus) if gpus else len(live.gpus) if live else 0) // replicas
    with preflight.naming_holders(live) if live else nullcontext():
        return prepare(
            model,
            profile,
            engine=engine,
            flags=given,
            deployment_file=file,
            with_key=with_key,
            catalog=catalog,
            free_mib=live.free_mib if live else None,
            gpus=count or None,
            verify=verify,
        )


def on_cards(prepared: Prepared, gpus: tuple[int, ...] | None, replicas: int = 1) -> Prepared:
    """The plan on the cards asked for, else on those of the profile with most free memory; for all replicas."""
    if prepared.hardware.kind == "cpu":
        return prepared
    plan = prepared.plan
    needed = plan.cards * replicas
    devices = gpus or preflight.choose(prepared.hardware, needed)
    if len(devices) < needed:
        devices = plan.launch.devices if replicas == 1 else tuple(range(needed))
    launch = plan.launch.model_copy(update={"devices": devices[:needed]})
    return prepared._replace(plan=plan.model_copy(update={"launch": launch}))
