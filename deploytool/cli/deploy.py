"""`ps`, `status`, `logs`, `stop`, `restart`, `down`: deployments that are there, as they really are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.output import emit, note, say

if TYPE_CHECKING:
    from deploytool.records import Deployment
    from deploytool.store import Store

Name = Annotated[str, typer.Argument(help="The deployment's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="SECONDS", min=0.1, help="How long to wait for readiness (default: the engine's)."
    ),
]
NoSmoke = Annotated[bool, typer.Option("--no-smoke", help="Prove the vectors only; skip the smoke checks.")]


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List deployments with their true state: starting, ready, unhealthy, stopped or died, and why."""
    from deploytool.cli.deploy_view import list_deployments

    list_deployments(as_json=as_json)


def status(name: Name, as_json: Json = False) -> None:
    """Show one deployment in full: health, memory now, the command, its log's place, warnings."""
    from deploytool.cli.deploy_view import show_status
    from deploytool.deployment import refresh_one
    from deploytool.store import Store

    with Store() as store:
        deployment = refresh_one(name, store)
        document = _document(deployment, store)
        if deployment.is_endpoint:
            document["replicas"] = _replicas(deployment, store)
    if as_json:
        emit(document)
    else:
        show_status(document)


def _document(deployment: Deployment, store: Store) -> dict[str, Any]:
    """Everything that is known: the public document, then what only `status` tells."""
    from deploytool.cli.deploy_view import uptime_s
    from deploytool.deployment import memory_now
    from deploytool.engines import engine
    from deploytool.probes import alive
    from deploytool.runtimes import runtime

    launch, served_by = deployment.launch, runtime(deployment.runtime)
    running = deployment.state not in ("stopped", "died")
    health = None
    if running:
        probe = alive(launch.url, launch.readiness.path, launch.readiness.probe_timeout_s)
        health = f"{launch.readiness.path} {probe.reason}"
    memory = {**deployment.memory, **(memory_now(deployment) if running else {})}
    seconds = uptime_s(deployment)
    warnings = [*deployment.plan.get("warnings", []), *engine(deployment.engine).hazards]
    return {
        **deployment.public(),
        "memory": memory,
        "health": health,
        "created_at": deployment.created_at,
        "ready_at": deployment.ready_at,
        "up_s": None if seconds is None else round(seconds, 1),
        "dtype": deployment.plan.get("dtype"),
        "served_as": launch.model,
        "dimensions": deployment.dimensions,
        "gpus": list(launch.devices),
        "key": deployment.key_source,
        "exit_status": deployment.exit_status,
        "log": served_by.log_place(deployment, store.folder_of(deployment.id)),
        "command": served_by.command(deployment),
        "warnings": warnings,
    }


def _replicas(endpoint: Deployment, store: Store) -> list[dict[str, Any]]:
    """Each server behind an endpoint, with what the router says of it (None: the router says nothing)."""
    import os

    from deploytool.deployment import memory_now
    from deploytool.deployment.routing import replicas_of, seen_by_router

    seen = seen_by_router(endpoint, os.environ)
    rows = []
    for one in replicas_of(endpoint.name, store):
        worker = seen.get(one.launch.url)
        running = one.state not in ("stopped", "died")
        rows.append(
            {
                "name": one.name,
                "state": one.state,
                "reason": one.reason,
                "url": one.launch.url,
                "pid": one.process.pid if one.process and running else None,
                "gpus": list(one.launch.devices),
                "rss_mib": memory_now(one)["rss_mib"] if running else None,
                "gets_requests": worker.healthy if worker else False,
                "in_flight": worker.load if worker else None,
                "restarts": one.restarts,
            }
        )
    return rows


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with every new line until the server is gone.")
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", metavar="N", min=0, help="The last N lines (default: all; 20 with -f)."
        ),
    ] = None,
) -> None:
    """Print a deployment's log; -f follows it."""
    import sys

    from deploytool.deployment import log_lines
    from deploytool.store import Store

    last = 20 if follow and lines is None else lines
    with Store() as store:
        try:
            for line in log_lines(name, store, last=last, follow=follow):
                if follow:
                    # Not `say`: where nobody reads on, there is nothing more to wait for.
                    sys.stdout.write(f"{line}\n")
                    sys.stdout.flush()
                else:
                    say(line)
        except (KeyboardInterrupt, BrokenPipeError):
            # Ctrl-C and `| head` are how one ends following: no error.
            if not follow:
                raise


def stop(name: Name, as_json: Json = False) -> None:
    """Stop a deployment and keep its record: `restart` brings it up again."""
    from deploytool import deployment as deployments
    from deploytool.store import Store

    with Store() as store:
        before = deployments.refresh_one(name, store)
        stopped = deployments.stop(name, store)
    if as_json:
        emit(stopped.public())
    elif before.state in ("stopped", "died"):
        say(f"{name}: was {before.state} already")
    else:
        say(f"{name}: stopped")


def restart(name: Name, wait: Wait = None, no_smoke: NoSmoke = False, as_json: Json = False) -> None:
    """Stop a deployment and bring it up again as it was."""
    from deploytool import deployment as deployments
    from deploytool.cli.deploy_view import Narrator, show_ready
    from deploytool.store import Store

    narrator = Narrator()
    with Store() as store:
        deployments.refresh_one(name, store)
        try:
            deployment = deployments.restart(
                name, store, narrator.line, wait_s=wait, smoke=not no_smoke, tick=narrator.tick
            )
        finally:
            narrator.clear()
    if as_json:
        emit(deployment.public())
    else:
        show_ready(deployment)


def down(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Deployments to take down.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of them, and whatever a crash left running.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", metavar="FILE", help="Those of a deployment file, and those it once had."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list of lines.")] = False,
) -> None:
    """Take deployments down and forget them. One that is gone already is no error."""
    from deploytool import deployment as deployments
    from deploytool.store import Store

    with Store() as store:
        there = deployments.refresh(store)
        named = [*(names or []), *(_of_file(file, there) if file is not None else [])]
        ours = file is not None and not named
        lines = [] if ours else deployments.down(named, store, note, everything=everything)
    if as_json:
        emit(lines)
        return
    for line in lines or ["nothing was there to take down"]:
        say(line)


def _of_file(path: Path, there: list[Deployment]) -> list[str]:
    """The deployments that a file names or once brought up, as far as there is one of that name."""
    from deploytool.deployment_file import read

    wanted, origin = read(path), str(path.expanduser().absolute())
    return [
        one.name
        for one in there
        if one.group is None and (one.from_file == origin or wanted.named(one.name) is not None)
    ]
