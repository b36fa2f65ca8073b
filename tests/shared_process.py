"""One real process, or one folder of files, for a whole test run, whatever the number of workers.

The worker that needs it first starts it, the others find it; it ends when the last worker has ended, also where
workers were killed. Each worker holds a shared lock on one file of the run's folder as long as it lives; a
keeper, the process's parent, waits for the exclusive lock on that file.

    python shared_process.py FOLDER NAME COMMAND...     the keeper; it goes to the background at once
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WORKERS = "workers.lock"
START_TIMEOUT_S = 400.0
END_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Shared:
    """A running process: its pid, where its output goes, and what its output said when it was ready."""

    pid: int
    log: Path
    said: tuple[str, ...]


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


def made_once(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, which `make` makes and fills where no worker of the run has before."""
    target, made = folder / name, folder / f"{name}.made"
    with locked(folder / f"{name}.lock", fcntl.LOCK_EX):
        if not made.exists():
            make(target)
            made.touch()
    return target


def shared(folder: Path, name: str, command: Sequence[str], ready: str, env: Mapping[str, str]) -> Shared:
    """The process of that name, started where it does not run yet.

    `ready`: a pattern (re, DOTALL) that its output holds once it can be used; its groups are `said`. The caller
    holds the shared lock on WORKERS. AssertionError where the process ends before, with its output.
    """
    state = folder / f"{name}.json"
    with locked(folder / f"{name}.lock", fcntl.LOCK_EX):
        if not state.exists():
            keeper = [sys.executable, str(Path(__file__).resolve()), str(folder), name, *command]
            subprocess.run(keeper, env=env, check=True, timeout=START_TIMEOUT_S, stdin=subprocess.DEVNULL)
            state.write_text(json.dumps(_wait(folder, name, re.compile(ready, re.DOTALL))))
        pid, said = json.loads(state.read_text())
    return Shared(pid, folder / f"{name}.log", tuple(said))


def _wait(folder: Path, name: str, ready: re.Pattern[str]) -> tuple[int, Sequence[str]]:
    log, pid, ended = (folder / f"{name}.{kind}" for kind in ("log", "pid", "ended"))
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        gone = ended.exists() or time.monotonic() > deadline
        text = log.read_text(errors="replace") if log.exists() else ""
        if pid.exists() and (found := ready.search(text)):
            return int(pid.read_text()), found.groups()
        if gone:
            raise AssertionError(f"{name} ended or was not ready in time; its output:\n{text[-3000:]}")
        time.sleep(0.05)


def keep(folder: Path, name: str, command: Sequence[str]) -> None:
    """Run the process in the background until no worker is left."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what reads the output of the tests must not wait for this process
        os.dup2(null, stream)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    written = folder / f"{name}.pid.part"
    written.write_text(str(process.pid))
    written.rename(folder / f"{name}.pid")

    def tell_the_end() -> None:
        process.wait()
        (folder / f"{name}.ended").touch()

    threading.Thread(target=tell_the_end, daemon=True).start()
    with locked(folder / WORKERS, fcntl.LOCK_EX):
        process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
