"""The process runtime: a server as a process of this machine, under a supervisor that outlives the tool.

Linux. In the deployment's folder: `server.json` and `exit.json` (by the supervisor), `server.log` and its
older half `server.log.1`, `supervisor.log`, and `secret.yaml` where the engine takes its key from a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.errors import NotAvailable, StartFailed, Unhealthy
from deploytool.identity import (
    ProcessIdentity,
    boot_id,
    boot_time,
    identify,
    is_alive,
    is_reused,
    send_signal,
)
from deploytool.paths import deployment_folder
from deploytool.runtimes import marks
from deploytool.runtimes.contract import LogReader, Observation, Running, Stray
from deploytool.runtimes.endings import how_it_ended
from deploytool.runtimes.log_files import FileLog
from deploytool.runtimes.process_launch import (
    KEY_VARIABLE,
    SECRET_NAME,
    chosen_cards,
    server_argv,
    server_environment,
)
from deploytool.runtimes.supervisor import STOP_MARK
from deploytool.state_file import named_errors

if TYPE_CHECKING:
    from deploytool.records import Deployment

STOP_GRACE_S = 10.0
LEFTOVER_GRACE_S = 4.0  # a little more than the supervisor gives to what a server leaves behind
KILL_WAIT_S = 5.0
START_WAIT_S = 30.0
LOG_NAME = "server.log"
MAX_LOG_BYTES = 16 << 20


class ProcessRuntime:
    """See contract.Runtime."""

    name = "process"

    def check(self, deployment: Deployment) -> None:  # noqa: ARG002
        if not sys.platform.startswith("linux"):
            raise NotAvailable(
                f"the process runtime needs Linux (/proc, subreapers); this is {sys.platform}",
                hint="run deploytool on the Linux machine that serves, or inside WSL 2",
            )

    def start(self, deployment: Deployment, folder: Path, key: str | None) -> Running:
        spec = deployment.launch
        with named_errors(home_of(folder)):
            _clear(folder)
            argv = server_argv(spec, folder, key)
        environment = server_environment(spec, key) | marks.environment(deployment.id, home_of(folder))
        order = {
            "argv": argv,
            "env": environment,
            "log": str(folder / LOG_NAME),
            "max_log_bytes": MAX_LOG_BYTES,
            "grace_s": STOP_GRACE_S,
            "secrets": [key] if key else [],
        }
        self._supervise(folder, order, deployment.id)
        running = self.running(folder)
        if running is None:
            raise StartFailed("the supervisor left no record of the server", hint=f"look into {folder}")
        return running

    def _supervise(self, folder: Path, order: dict[str, Any], deployment_id: str) -> None:
        """Start the supervisor and wait until the server's identity is on disk."""
        program = str(Path(__file__).with_name("supervisor.py"))
        environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
        try:
            answer = subprocess.run(
                [sys.executable, "-I", "-S", program, str(folder)],
                input=json.dumps(order).encode(),
                env=environment | marks.environment(deployment_id, home_of(folder)),
                capture_output=True,
                start_new_session=True,
                timeout=START_WAIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StartFailed(
                f"the supervisor of the server did not start: {error}",
                hint="is the machine out of memory or processes? see `free -m` and `ulimit -u`",
            ) from error
        if answer.stdout != b"ok":
            said = (answer.stdout + answer.stderr).decode(errors="replace").strip().splitlines()
            raise StartFailed("the supervisor of the server did not start", details=said[-5:])

    def running(self, folder: Path) -> Running | None:
        """The identities that the supervisor wrote; None where there are none."""
        document = _read_json(folder / "server.json")
        if document is None:
            return None
        boot = document["boot_id"]
        return Running(
            process=_identity(document["server"], boot),
            supervisor=_identity(document["supervisor"], boot),
        )

    def keep_up(self, deployment: Deployment, folder: Path) -> None:
        """Nobody restarts a process."""

    def observe(self, deployment: Deployment, folder: Path) -> Observation:
        running = self.running(folder)
        if running is None and deployment.process:
            running = Running(process=deployment.process, supervisor=deployment.supervisor)
        ending = _read_json(folder / "exit.json")
        if running and running.process and ending is None and is_alive(running.process):
            watched = is_alive(running.supervisor)
            odd = None if watched else "its supervisor is gone: its log and its exit status are lost"
            return Observation(alive=True, running=running, reason=odd)
        supervisor = running.supervisor if running else None
        left = marks.members(deployment.id, home_of(folder), folder, supervisor, None)
        leftovers = tuple(who.pid for who in left if not _is(who, supervisor))
        if running is None or running.process is None:
            reason = "no server was started"
            return Observation(alive=False, reason=reason, leftovers=leftovers)
        if ending is None:
            # Both may have ended since it was looked for: a supervisor that is gone has written it by now.
            if is_alive(running.supervisor):
                self._ends_soon(folder)
            ending = _read_json(folder / "exit.json")
        reason = how_it_ended(ending, rebooted=running.process.boot_id not in (None, boot_id()))
        if is_reused(running.process):
            stranger = marks.program(running.process.pid)
            reason += (
                f"; pid {running.process.pid} is another program's now ({stranger}), which is left alone"
            )
        status = ending["status"] if ending else None
        return Observation(
            alive=False, running=running, exit_status=status, reason=reason, leftovers=leftovers
        )

    def _ends_soon(self, folder: Path) -> None:
        """Wait a moment for the supervisor, which is about to write how the server ended."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if (folder / "exit.json").exists():
                return
            time.sleep(0.01)

    def stop(self, deployment: Deployment, folder: Path, grace_s: float = STOP_GRACE_S) -> None:
        with contextlib.suppress(FileNotFoundError):
            # Before looking who is there: a supervisor that is just starting sees this, or is seen.
            (folder / STOP_MARK).touch(mode=0o600)
        running = self.running(folder) or Running(
            process=deployment.process, supervisor=deployment.supervisor
        )
        self._end(deployment.id, folder, running, grace_s)
        (folder / SECRET_NAME).unlink(missing_ok=True)

    def _end(self, deployment_id: str, folder: Path, running: Running, grace_s: float) -> None:
        """SIGTERM to the supervisor, or without one to everything found; a bounded wait; SIGKILL."""
        home = home_of(folder)

        def left() -> list[ProcessIdentity]:
            return marks.members(deployment_id, home, folder, running.supervisor, running.process)

        def unsupervised() -> list[ProcessIdentity]:
            return [who for who in left() if not _is(who, running.supervisor)]

        if grace_s > 0:
            if not (running.supervisor and send_signal(running.supervisor, signal.SIGTERM)):
                marks.signal_all(left(), signal.SIGTERM)
            if running.process is None or _gone(lambda: is_alive(running.process), grace_s):
                _gone(left, LEFTOVER_GRACE_S)
        # The supervisor goes last, so that it can write down how the server ended.
        for targets in (unsupervised, left):
            deadline = time.monotonic() + KILL_WAIT_S
            while targets() and time.monotonic() < deadline:
                marks.signal_all(targets(), signal.SIGKILL)
                if _gone(left, 0.5):
                    return
        if not left():
            return
        pids = ", ".join(f"{who.pid} ({marks.program(who.pid)})" for who in left())
        raise Unhealthy(
            f"these processes did not end, not even by SIGKILL: {pids}",
            hint="they wait in the kernel, often for a driver: try `down` later, or restart the machine",
        )

    def open_log(self, deployment: Deployment, folder: Path, last: int | None) -> LogReader:  # noqa: ARG002
        return FileLog(folder / LOG_NAME, last)

    def command(self, deployment: Deployment) -> str:
        spec = deployment.launch
        return spec.model_copy(update={"env": chosen_cards(spec) | spec.env}).command()

    def log_place(self, deployment: Deployment, folder: Path) -> str:  # noqa: ARG002
        return str(folder / LOG_NAME)

    def strays(self, home: Path, known: Collection[str]) -> list[Stray]:
        return [
            Stray(id=deployment, what=", ".join(f"pid {who.pid} ({marks.program(who.pid)})" for who in found))
            for deployment, found in sorted(marks.marked(home).items())
            if deployment not in known
        ]

    def end_stray(self, stray: Stray, home: Path, grace_s: float = STOP_GRACE_S) -> None:
        folder = deployment_folder(home, stray.id)
        self._end(stray.id, folder, self.running(folder) or Running(), grace_s)


def home_of(folder: Path) -> Path:
    """The state folder that holds `deployments/ID`."""
    return folder.parent.parent


def _clear(folder: Path) -> None:
    """Remove what an earlier start left. Its log moves aside: its failure is not this start's cause."""
    for name in ("server.json", "exit.json", STOP_MARK):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (folder / LOG_NAME).replace(folder / f"{LOG_NAME}.1")


def _gone(left: Callable[[], object], wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    pause_s = 0.02
    while left():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.25)
    return True


def _is(one: ProcessIdentity, other: ProcessIdentity | None) -> bool:
    return other is not None and (one.pid, one.start_ticks) == (other.pid, other.start_ticks)


def _identity(document: dict[str, Any], boot: str | None) -> ProcessIdentity:
    pid, ticks = document["pid"], document["start_ticks"]
    now = identify(pid)
    same = now is not None and now.start_ticks == ticks and now.boot_id == boot
    started_at = now.started_at if same and now else round(boot_time() + ticks / os.sysconf("SC_CLK_TCK"), 2)
    return ProcessIdentity(pid=pid, started_at=started_at, start_ticks=ticks, boot_id=boot)


def _read_json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document
    return None
