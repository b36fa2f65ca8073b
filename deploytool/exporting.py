"""What is to be exported: a deployment that is recorded, or those of a file, planned again for elsewhere.

Planned without a look at this machine's cards and driver, since the files are for another one; nor are its
cores counted, nor variables of this shell asked. What a start was given is kept; what was computed for this
machine is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from deploytool.catalog import Catalog
from deploytool.contained import model as mounted
from deploytool.deployment_file import Wanted
from deploytool.engines import engine
from deploytool.errors import BadInput
from deploytool.exporters.service import Service
from deploytool.hardware import HardwareProfile, Scalar
from deploytool.planning import Plan
from deploytool.plans import prepare
from deploytool.records import Deployment

Target = Literal["compose", "kubernetes"]
GIVEN = ("flag", "environment", "deployment file")


def recorded(deployment: Deployment) -> Wanted:
    """What its start was given, as a deployment file would say it."""
    values = {
        entry["name"]: entry["value"]
        for entry in deployment.plan.get("values", ())
        if entry["origin"] in GIVEN
    }
    host, key = values.pop("host", None), deployment.key_source
    values.pop("port", None)
    card = deployment.card
    return Wanted(
        name=deployment.name,
        model=card.get("folder") or deployment.model,
        profile=deployment.profile,
        engine=deployment.engine,
        runtime=deployment.runtime,
        host=host,
        port=deployment.launch.port,
        gpu=deployment.launch.devices,
        set=values,
        api_key_file=Path(key.partition(" ")[2]) if key else None,
        slo=deployment.slo,
        image=deployment.launch.image if deployment.runtime == "docker" else None,
        memory_limit_mib=deployment.launch.memory_limit_mib if deployment.runtime == "docker" else None,
    )


def service(
    wanted: Wanted, target: Target, catalog: Catalog, *, image: str | None, replicas: int | None
) -> Service:
    """One deployment as the exporters take it. What does not fit its hardware is an error, as for `plan`.

    Kubernetes: always with an API key, since every pod of the cluster may reach it. BadInput for a model
    that only this machine has, where the files cannot be mounted.
    """
    prepared = prepare(
        wanted.model,
        wanted.profile,
        engine=wanted.engine,
        flags={},
        deployment_file=_settings(wanted, target),
        with_key=target == "kubernetes" or wanted.api_key_file is not None,
        catalog=catalog,
        gpus=len(wanted.gpu) or None,
        environ={},
        verify=False,
    )
    plan, card = prepared.plan, prepared.card
    launch = plan.launch if plan.launch.port else plan.launch.with_port(_usual_port(plan.engine))
    launch = launch.model_copy(
        update={
            "argv": _without_threads(launch.argv, plan),
            "image": image or wanted.image or engine(plan.engine).image(prepared.hardware, None).name,
            "memory_limit_mib": wanted.memory_limit_mib,
            "devices": wanted.gpu or launch.devices,
        }
    )
    here = prepared.files is not None and Path(launch.model_path).is_dir()
    found = mounted(launch) if target == "compose" and here else None
    return Service(
        name=wanted.name,
        launch=launch,
        card=card,
        hardware=prepared.hardware,
        memory=plan.memory,
        cards=plan.cards,
        replicas=replicas or wanted.replicas,
        model=(found.bind, found.inside) if found else None,
        files={Path(name).name: Path(name).read_text(encoding="utf-8") for name in launch.files},
        slo=wanted.slo,
    )


def check_fetched(found: Service) -> None:
    """BadInput where a model's files are to be fetched and no hub has them."""
    if found.model is None and found.card.hub_id is None:
        raise BadInput(
            f"{found.card.name} has no hub id in its card: nothing could fetch its files elsewhere",
            hint="kubernetes: put them on a claim and give --claim; compose: give a folder of this machine",
        )


def replicas_of(path: Path, wanted: Wanted, profile: HardwareProfile) -> tuple[int, list[str]]:
    """The replicas that a capacity plan (`capacity --json`) asks for, and what to remark on it.

    BadInput where the file is none, has no number, or was measured for another model.
    """
    try:
        plan = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadInput(
            f"{path} is no JSON: {error}", hint="deploytool capacity NAME --json > plan.json"
        ) from error
    if not isinstance(plan, Mapping) or not {"replicas", "model", "plan"} <= plan.keys():
        raise BadInput(f"{path} is no capacity plan", hint="deploytool capacity NAME --json > plan.json")
    count = plan["replicas"]
    if not isinstance(count, int) or count < 1:
        reason = plan["plan"].get("reason") or "it was made without --target-qps"
        raise BadInput(
            f"{path} has no number of replicas: {reason}", hint="capacity NAME --target-qps N --json"
        )
    if wanted.model not in (plan["model"], plan.get("target")) and wanted.name != plan.get("target"):
        raise BadInput(
            f"{path} was measured for {plan['model']} ({plan.get('target')}), not for {wanted.name}",
            hint="give the plan of this model, or --replicas N",
        )
    notes = [f"{count} replicas by {path}: {', '.join(plan.get('slo') or ())}"]
    if plan.get("profile") not in (None, profile.name):
        notes.append(f"warning: it was measured on {plan['profile']}, and this is for {profile.name}")
    return count, notes


def _settings(wanted: Wanted, target: Target) -> dict[str, Scalar]:
    """On Kubernetes the address is the pod's own, and the ports of others are no concern."""
    settings = wanted.settings()
    if target == "kubernetes":
        settings.pop("host", None)
    return settings


def _without_threads(argv: Sequence[str], plan: Plan) -> tuple[str, ...]:
    """The command line without a number of threads that was computed from this machine's cores."""
    computed = any(entry.name == "threads" and entry.origin == "computed" for entry in plan.values)
    if not computed or "--threads" not in argv:
        return tuple(argv)
    at = argv.index("--threads")
    return (*argv[:at], *argv[at + 2 :])


def _usual_port(name: str) -> int:
    return next(int(str(one.default)) for one in engine(name).settings if one.name == "port" and one.default)
