"""The Locust processes of one cell of the grid.

Each is in a session of its own, so that Ctrl-C reaches the tool alone and the tool ends the load in
order. It dies with the tool (PR_SET_PDEATHSIG), ends itself by SIGALRM where all else fails, and is never
waited for without a bound. Work and results travel by file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from deploytool.errors import missing_extra
from deploytool.loadgen.plan import CellPlan, Live, Outcome
from deploytool.loadgen.view import View, client_of, null_of, together, window_of
from deploytool.paths import packaged

SHARED_BYTES = 64  # a header, or a process's slot: as in loadtests/load_state.py
WATCH_S = 0.25
WORKERS_WAIT_S = 50  # for workers on other hosts; below the allowance for a start
TERM_ALLOWANCE_S = 3.0
LOG_HEAD = re.compile(r"^\[[^\]]*\] \S+/[A-Z]+/\S+: ")  # of Locust's log: time, machine, level, module
MOST_CLIENTS = 900  # above about 1,000 open sockets FastHttpUser's pool cannot tell a live one (select)


def require() -> None:
    """Raises NotAvailable where the load generator's packages are not installed."""
    for package in ("locust", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "load", "load tests")


# Told of every look at a cell; a text it returns ends the cell, as the reason.
Watch = Callable[[Live], str | None]


def run_cell(plan: CellPlan, api_key: str | None, watch: Watch) -> Outcome:
    """Run one cell to its end. Samples are in `plan.samples` however it ended; nothing is left running."""
    plan.folder.mkdir(parents=True)
    plan.answers.mkdir()
    (plan.folder / "shared").write_bytes(bytes(SHARED_BYTES * (1 + plan.processes)))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1 if plan.spread else plan.processes):
            processes.append(_start(plan, rank, api_key))
        return _follow(plan, processes, watch)
    finally:
        for process in processes:
            end(process)


def _start(plan: CellPlan, rank: int, api_key: str | None) -> subprocess.Popen[bytes]:
    cell = plan.folder / f"cell-{rank}.json"
    cell.write_text(json.dumps(plan.document(rank), indent=1), encoding="utf-8")
    with plan.log(rank).open("wb") as log:
        return subprocess.Popen(
            _command(plan, rank, cell),
            cwd=plan.folder,  # Locust reads locust.conf and pyproject.toml from where it runs
            env=environment(plan.folder, api_key, plan.spread.token if plan.spread else None),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _command(plan: CellPlan, rank: int, cell: Path) -> list[str]:
    users = str(plan.clients(rank))
    spread = plan.spread
    if spread is None:
        how = ["--host", plan.host]
    else:
        users = str(plan.concurrency if plan.rate is None else spread.workers)
        how = [
            "--master", "--master-bind-host", spread.host, "--master-bind-port", str(spread.port),
            "--expect-workers", str(spread.workers), "--expect-workers-max-wait", str(WORKERS_WAIT_S),
        ]  # fmt: skip
    return [
        *locust(cell), "--headless", *how, "--users", users, "--spawn-rate", users, "--only-summary",
        "--exit-code-on-error", "0",
    ]  # fmt: skip


def locust(cell: Path) -> list[str]:
    """Locust with our locustfile, as every load process runs it."""
    file = packaged("loadtests") / "embeddings.py"
    return [sys.executable, "-m", "locust", "-f", str(file), "--loglevel", "WARNING", "--cell", str(cell)]


def environment(home: Path, api_key: str | None, token: str | None = None) -> dict[str, str]:
    """What a load process inherits: secrets that it needs, and nothing that changes what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    secrets = {"DEPLOYTOOL_API_KEY": api_key, "DEPLOYTOOL_LOAD_TOKEN": token}
    kept = {name: value for name, value in kept.items() if name not in secrets}
    kept |= {name: value for name, value in secrets.items() if value is not None}
    # Settings of the user's own Locust (~/.locust.conf) must not change what is measured.
    return kept | {"HOME": str(home), "DEPLOYTOOL_LOAD_PARENT": str(os.getpid())}


def _follow(plan: CellPlan, processes: list[subprocess.Popen[bytes]], watch: Watch) -> Outcome:
    views = [View(plan, rank) for rank in range(plan.processes)]
    reason: str | None = None
    state: Literal["done", "failed", "interrupted"] = "done"
    try:
        while any(process.poll() is None for process in processes):
            for view in views:
                view.read()
            reason = watch(together(views)) or _dead(plan, views, processes) or _overdue(views)
            if reason:
                state = "failed"
                break
            running = next((process for process in processes if process.poll() is None), processes[0])
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(WATCH_S)
    except KeyboardInterrupt:
        state, reason = "interrupted", "Ctrl-C"
    for process in processes:
        end(process)
    for view in views:
        view.read()
    if state == "done" and (reason := _dead(plan, views, processes)):
        state = "failed"
    return Outcome(
        state, reason, window_of(views, time.monotonic_ns()), client_of(views), null_of(plan, views)
    )


def _dead(plan: CellPlan, views: list[View], processes: list[subprocess.Popen[bytes]]) -> str | None:
    """Which load process ended before its work did. Of workers on other hosts their master tells."""
    if plan.spread is not None:
        status = processes[0].poll()
        gone = f"the load's master ended early ({status_words(status)}){_last_line(plan.log(0))}"
        return gone if status else None
    for view, process in zip(views, processes, strict=True):
        status = process.poll()
        if status is None:
            continue
        view.read()
        if view.document.get("state") != "finished":
            which = (
                f"load process {view.rank + 1} of {len(views)}" if len(views) > 1 else "the load generator"
            )
            return f"{which} ended early ({status_words(status)}){_last_line(view.plan.log(view.rank))}"
    return None


def _overdue(views: list[View]) -> str | None:
    late = next((view for view in views if view.is_overdue()), None)
    return f"the load generator did not end in time{_last_line(late.plan.log(late.rank))}" if late else None


def end(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started: SIGTERM, a bounded wait, SIGKILL to its group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_ALLOWANCE_S)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status_words(status: int | None) -> str:
    if status is None:
        return "it was stopped"
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    words = [LOG_HEAD.sub("", line) for line in lines if line]
    return f": {words[-1][:300]}" if words else ""
