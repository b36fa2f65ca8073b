"""`watch`: keep deployments up. `service install`: the systemd user unit that does so from the start on."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli.output import emit, note, say

app = typer.Typer(no_args_is_help=True, help="A service of this machine that keeps deployments up: install.")

GiveUp = Annotated[
    int,
    typer.Option("--give-up-after", metavar="N", min=1, help="Restarts of one deployment before it is left."),
]
Hanging = Annotated[
    float,
    typer.Option(
        "--hanging-after", metavar="SECONDS", min=1, help="Without an answer for so long counts as dead."
    ),
]


def watch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these (default: all of them).")
    ] = None,
    give_up_after: GiveUp = 5,
    hanging_after: Hanging = 60.0,
    first_pause: Annotated[
        float,
        typer.Option("--first-pause", metavar="SECONDS", min=0.1, help="Before the first restart; then x 2."),
    ] = 1.0,
) -> None:
    """Keep deployments up: restart what died or hangs, with growing pauses, and give up in the end.

    Runs until Ctrl-C. Never restarts what `stop` or `down` was asked for, nor what was never ready.
    """
    from deploytool.deployment.keeping import Keeper, Patience
    from deploytool.store import Store

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    patience = Patience(most_restarts=give_up_after, hanging_s=hanging_after, first_pause_s=first_pause)
    with Store() as store:
        for name in names or []:
            store.deployment(name)
        note(f"watching {', '.join(names) if names else 'all deployments'} of {store.folder}; Ctrl-C ends it")
        Keeper(store, note, patience, names or ()).run(stop)
    note("watching no more; what runs goes on")


@app.callback()
def service() -> None:
    """A service of this machine that keeps deployments up: install."""


@app.command("install")
def install(
    print_only: Annotated[bool, typer.Option("--print", help="Print the unit; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the systemd user unit that runs `deploytool watch`, and say how to start it."""
    from deploytool.deployment.service import COMMANDS, LINGER, key_places, path, unit, write
    from deploytool.store import Store

    with Store() as store:
        text = unit(sys.executable, store.folder)
        wanted = key_places(store.deployments())
    if print_only and not as_json:
        say(text.rstrip("\n"))
        return
    place: Path | None = None if print_only else write(text)
    if as_json:
        emit(
            {"path": str(place or path()), "written": place is not None, "unit": text, "next": list(COMMANDS)}
        )
        return
    say(f"wrote {place}; now:")
    for command in COMMANDS:
        say(f"  {command}")
    say(f"and, so that it starts with the machine and not with your log-in: {LINGER}")
    for line in wanted:
        note(f"warning: {line}")
