"""`up`: a plan, the preflight, then a server that is ready and proven.

Apart from `deploy`, so that `ps` need not import all this.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Annotated

import typer

from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.cli import plan_options as options
from deploytool.cli import up_container as containers
from deploytool.cli.deploy import NoSmoke, Wait
from deploytool.cli.deploy_view import Narrator, show_ready
from deploytool.cli.output import emit, note
from deploytool.cli.plan_options import flags, show_misfit, show_plan
from deploytool.deployment import UpOptions, given_key
from deploytool.deployment import up as bring_up
from deploytool.errors import BadInput
from deploytool.hardware import Scalar
from deploytool.planning import AUTO
from deploytool.plans import PlanDoesNotFit, Prepared, prepare, resolve_alias
from deploytool.store import Store

PANEL = "Start"


def up(
    model: options.Model,
    profile: options.Profile,
    engine: options.EngineName = AUTO,
    name: Annotated[
        str | None, typer.Option("--name", help="The deployment's name (default: the model's).")
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="N,...", help="GPUs to take, numbered as nvidia-smi does.")
    ] = None,
    runtime: containers.RuntimeName = containers.PROCESS,
    replicas: Annotated[
        int,
        typer.Option(
            "--replicas", metavar="N", min=1, help="So many servers behind one endpoint (sglang-router)."
        ),
    ] = 1,
    api_key_file: options.ApiKeyFile = None,
    wait: Wait = None,
    no_smoke: NoSmoke = False,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed", help="Leave a failed start as it is, to look at.", rich_help_panel=PANEL
        ),
    ] = False,
    skip_preflight: Annotated[
        bool,
        typer.Option(
            "--skip-preflight",
            help="Start without looking for card, room, engine and files.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan (as `plan` does); start nothing.")
    ] = False,
    image: containers.Image = None,
    pull: containers.Pull = False,
    offline: containers.Offline = False,
    memory_limit: containers.MemoryLimit = None,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    dtype: options.DtypeName = None,
    tp: options.TensorParallel = None,
    assignments: options.Assignments = None,
    profiles_dir: options.ProfilesDir = None,
    json: options.Json = False,
) -> None:
    """Bring a model up, prove that it works, leave it running.

    Exit code 3: it does not fit; 4: the engine would give wrong vectors; 5: the start failed; 6: its vectors
    are not right; 7: port or name taken; 8: card, engine or files missing. Nothing is left running then.
    """
    how = containers.containing(
        runtime, image=image, pull=pull, offline=offline, memory_limit_mib=memory_limit
    )
    gpus = _indices(gpu)
    key = given_key(api_key_file, os.environ)
    catalog = Catalog(profiles_dir)
    given = flags(
        batch=batch, seq_len=seq_len, dtype=dtype, tp=tp, host=host, port=port, assignments=assignments
    )
    look = not skip_preflight
    try:
        prepared = _prepared(
            model,
            profile,
            engine,
            given,
            catalog,
            gpus=gpus,
            replicas=replicas,
            with_key=key is not None,
            look=look,
            verify=not dry_run,
        )
    except PlanDoesNotFit as error:
        if look or dry_run:
            show_misfit(error, json=json)
            raise
        note(f"warning: {error.message}; started all the same")
        prepared = error.prepared
    prepared = how.plan(prepared)
    if dry_run:
        show_plan(prepared, json=json)
        how.show(prepared, json=json)
        return
    warnings = list(prepared.plan.warnings)
    if look:
        warnings += preflight.check(
            prepared,
            gpus=gpus,
            profiles=catalog.hardware_profiles(),
            engine_here=not how.docker,
            replicas=replicas,
        )
    for warning in warnings:
        note(f"warning: {warning}")
    wanted = UpOptions(
        name=name,
        runtime=runtime,
        wait_s=wait,
        smoke=not no_smoke,
        keep_failed=keep_failed,
        replicas=replicas,
        profiles_dir=profiles_dir,
    )
    narrator = Narrator()
    how.obtain(prepared, narrator)
    with Store() as store:
        try:
            deployment = bring_up(
                _on_cards(prepared, gpus, replicas), wanted, store, narrator.line, key=key, tick=narrator.tick
            )
        finally:
            narrator.clear()
    if json:
        emit(deployment.public())
    else:
        show_ready(deployment)


def _indices(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise BadInput(
            f"--gpu {text!r} is no list of GPUs", hint="numbers as in nvidia-smi, such as 0 or 0,1"
        )
    return tuple(int(word) for word in words)


def _prepared(
    model: str,
    profile: str,
    engine: str,
    given: dict[str, Scalar],
    catalog: Catalog,
    *,
    gpus: tuple[int, ...] | None,
    replicas: int,
    with_key: bool,
    look: bool,
    verify: bool,
) -> Prepared:
    """The plan, compared with what is free now unless that is not to be looked at."""
    hardware = resolve_alias(catalog.hardware(profile), catalog)
    if hardware.kind == "cpu" and gpus:
        raise BadInput(
            "--gpu: the profile cpu uses no card", hint="leave --gpu out, or take a card's profile"
        )
    needed = options.cards_asked(given) * replicas
    live = preflight.live(hardware, gpus=gpus, count=needed) if look else None
    count = (len(gpus) if gpus else len(live.gpus) if live else 0) // replicas
    with preflight.naming_holders(live) if live else nullcontext():
        return prepare(
            model,
            profile,
            engine=engine,
            flags=given,
            with_key=with_key,
            catalog=catalog,
            free_mib=live.free_mib if live else None,
            gpus=count or None,
            verify=verify,
        )


def _on_cards(prepared: Prepared, gpus: tuple[int, ...] | None, replicas: int) -> Prepared:
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
