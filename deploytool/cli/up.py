"""`up`: a plan, the preflight, then a server that is ready and proven.

Apart from `deploy`, so that `ps` need not import all this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deploytool.catalog import Catalog
from deploytool.cli import plan_options as options
from deploytool.cli import up_container as containers
from deploytool.cli.deploy import NoSmoke, Wait
from deploytool.cli.deploy_view import Narrator, show_ready
from deploytool.cli.output import emit
from deploytool.cli.plan_options import flags, needed_profile, show_plan
from deploytool.cli.up_one import Wish, start
from deploytool.cli.up_one import plan as planned
from deploytool.deployment import UpOptions, given_key
from deploytool.errors import BadInput
from deploytool.planning import AUTO
from deploytool.store import Store

PANEL = "Start"


def up(
    model: options.ModelOrFile = None,
    profile: options.Profile = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", metavar="FILE", help="A deployment file: bring up all that it holds."),
    ] = None,
    engine: options.EngineName = AUTO,
    name: Annotated[
        str | None, typer.Option("--name", help="The deployment's name (default: the model's).")
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="N,...", help="GPUs to take, numbered as nvidia-smi does.")
    ] = None,
    runtime: containers.RuntimeName = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas", metavar="N", min=1, help="So many servers behind one endpoint (sglang-router)."
        ),
    ] = None,
    api_key_file: options.ApiKeyFile = None,
    wait: Wait = None,
    no_smoke: NoSmoke = False,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed", help="Leave a failed start as it is, to look at.", rich_help_panel=PANEL
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="With -f: start anew what is deployed otherwise than asked.",
            rich_help_panel=PANEL,
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
    pooling: options.Pooling = None,
    assignments: options.Assignments = None,
    profiles_dir: options.ProfilesDir = None,
    json: options.Json = False,
) -> int:
    """Bring a model up, prove that it works, leave it running.

    With -f: every deployment of the file, each by itself; what is there as asked stays as it is.
    Exit code 3: it does not fit; 4: the engine would give wrong vectors; 5: the start failed; 6: its vectors
    are not right; 7: port or name taken; 8: card, engine or files missing. Nothing is left running then.
    """
    gpus = _indices(gpu)
    given = flags(
        batch=batch,
        seq_len=seq_len,
        dtype=dtype,
        tp=tp,
        pooling=pooling,
        host=host,
        port=port,
        assignments=assignments,
    )
    look = not skip_preflight
    if file is not None:
        from deploytool.cli.up_file import Flags, up_file

        _refuse_with_file(model=model, name=name)
        beside = Flags(
            settings=given, profile=profile, engine=engine, runtime=runtime, gpus=gpus, image=image,
            memory_limit_mib=memory_limit, api_key_file=api_key_file, wait_s=wait, smoke=not no_smoke,
            keep_failed=keep_failed, replicas=replicas, look=look, pull=pull, offline=offline, replace=replace,
            profiles_dir=profiles_dir, json=json,
        )  # fmt: skip
        return up_file(file, beside, dry_run=dry_run)
    wish = Wish(
        model=_needed_model(model),
        profile=needed_profile(profile, profiles_dir),
        engine=engine,
        flags=given,
        from_file={},
        gpus=gpus,
        key=given_key(api_key_file, os.environ),
        how=containers.containing(
            runtime or containers.PROCESS,
            image=image,
            pull=pull,
            offline=offline,
            memory_limit_mib=memory_limit,
        ),
        options=UpOptions(
            name=name,
            runtime=runtime or containers.PROCESS,
            wait_s=wait,
            smoke=not no_smoke,
            keep_failed=keep_failed,
            replicas=replicas or 1,
            profiles_dir=profiles_dir,
        ),
        look=look,
    )
    catalog = Catalog(profiles_dir, ask_hub=True)
    prepared = planned(wish, catalog, dry_run=dry_run, json=json)
    if dry_run:
        show_plan(prepared, json=json)
        wish.how.show(prepared, json=json)
        return 0
    with Store() as store:
        deployment = start(wish, prepared, catalog, store, Narrator())
    if json:
        emit(deployment.public())
    else:
        show_ready(deployment)
    return 0


def _needed_model(model: str | None) -> str:
    if model is None:
        raise BadInput(
            "MODEL is missing", hint="up MODEL --profile PROFILE, or up -f FILE with a deployment file"
        )
    return model


def _refuse_with_file(*, model: str | None, name: str | None) -> None:
    """What a file says for each of its deployments, and one flag cannot say for all of them."""
    for what, value in (("MODEL", model), ("--name", name)):
        if value is not None:
            raise BadInput(f"{what} and -f exclude each other", hint="it stands in the file, or leave -f out")


def _indices(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise BadInput(
            f"--gpu {text!r} is no list of GPUs", hint="numbers as in nvidia-smi, such as 0 or 0,1"
        )
    return tuple(int(word) for word in words)
