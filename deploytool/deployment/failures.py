"""A start that failed, told once: the classified cause, the log's last lines, the command to paste."""

from __future__ import annotations

from pathlib import Path

from deploytool.errors import DeploytoolError, StartFailed, Taken
from deploytool.records import Deployment
from deploytool.runtimes import runtime
from deploytool.state_file import named_errors
from deploytool.store import Store

LINES_SHOWN = 15
LINES_READ = 400
LINES_KEPT = 20_000


def start_failed(deployment: Deployment, store: Store, what: str, hint: str) -> DeploytoolError:
    """The error for a server that died or was not ready in time. `what` says which, and how.

    `hint` is for where the log names no cause that the engine knows.
    """
    from deploytool.engines import program

    lines = log_end(deployment, store, LINES_READ)
    cause = program(deployment.launch.engine).diagnose("\n".join(lines))
    if cause is None:
        return StartFailed(f"{deployment.name} {what}", hint=hint, details=details(deployment, lines))
    kind: type[DeploytoolError] = Taken if cause.name == "port" else StartFailed
    return kind(
        f"{deployment.name} {what}: {cause.message}", hint=cause.hint, details=details(deployment, lines)
    )


def details(deployment: Deployment, lines: list[str]) -> list[str]:
    shown = [line for line in lines if line.strip()][-LINES_SHOWN:]
    log = [f"  | {line}" for line in shown] or ["  | (it wrote nothing)"]
    return ["the log's last lines:", *log, f"the command: {runtime(deployment.runtime).command(deployment)}"]


def log_end(deployment: Deployment, store: Store, count: int) -> list[str]:
    folder = store.folder_of(deployment.id)
    return runtime(deployment.runtime).open_log(deployment, folder, count).rest()


def keep_log(deployment: Deployment, store: Store) -> Path | None:
    """Save the log of a deployment that is about to be forgotten; the newest of each name is kept."""
    lines = log_end(deployment, store, LINES_KEPT)
    if not lines:
        return None
    folder = store.folder / "failed"
    with named_errors(store.folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{deployment.name}.log"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
