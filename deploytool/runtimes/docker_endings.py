"""What became of a container, in words, from the engine's `State` of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deploytool.runtimes.endings import signal_name

HIGHEST_SIGNAL = 64
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as a shell says it, and docker-init


def exit_status(state: Mapping[str, Any]) -> int | None:
    """Exit code; negative: the signal, which a container reports as 128 + signal. None: it never ran."""
    if state["Status"] == "created":
        return None
    code = int(state["ExitCode"])
    return -(code - 128) if 128 < code <= 128 + HIGHEST_SIGNAL else code


def how_it_ended(container: Mapping[str, Any]) -> str:
    """One line for a container that does not run: how and when it ended, and why where that is known."""
    state = container["State"]
    if state.get("Error"):
        return f"could not be started: {state['Error']}"
    if state["Status"] == "created":
        return "its container was made and never started"
    status = exit_status(state) or 0
    when = _local(state.get("FinishedAt", ""))
    if state.get("OOMKilled"):
        limit = int(container["HostConfig"].get("Memory") or 0)
        allowed = f" of {limit >> 20:,} MiB" if limit else ""
        return f"killed at {when}: it needed more memory than its container may use{allowed}"
    if status < 0:
        return (
            f"killed by {signal_name(-status)} at {when}; the kernel killed nothing in it for want of memory"
        )
    if status in (NOT_EXECUTABLE, NOT_FOUND):
        return f"exited with {status}: {_no_program(container['Config'], status)}"
    return f"exited with {status} at {when}"


def _no_program(config: Mapping[str, Any], status: int) -> str:
    """What the init of a container says by its exit code, when it cannot start the server."""
    program = (config.get("Entrypoint") or ["?"])[0]
    lacks = "no program" if status == NOT_FOUND else "no right to execute"
    return (
        f"the image {config['Image']} has {lacks} {program}: is it one of this engine? --image names another"
    )


def oddities(container: Mapping[str, Any]) -> str | None:
    """What is worth saying of a container that runs; None where all is as it should be."""
    state, restarts = container["State"], int(container.get("RestartCount") or 0)
    if state.get("Paused"):
        return f"its container is paused: docker unpause {container['Name'].lstrip('/')}"
    if state.get("Restarting"):
        ended = how_it_ended({**container, "State": {**state, "Status": "exited"}})
        return f"Docker is about to restart it ({restarts} times so far): {ended}"
    if restarts:
        times = "once" if restarts == 1 else f"{restarts} times"
        return f"Docker restarted it {times}, last at {_local(state['StartedAt'])}"
    return None


def _local(stamp: str) -> str:
    """The engine's time (UTC, with nanoseconds) as this machine's clock says it, to the second."""
    try:
        moment = datetime.fromisoformat(f"{stamp[:19]}+00:00")
    except ValueError:
        return stamp
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
