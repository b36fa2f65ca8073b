"""A worker of a load that another host leads: one Locust worker a cell, until the master says it was the last."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deploytool.errors import DeploytoolError, Unhealthy
from deploytool.loadgen import child, null_server

CONNECT_S = 1.0
KNOCK_S = 0.2
UNTIL_CELL_S = 120  # for a Locust worker to be given a cell; a cell sets its own end
NO_MASTER, FORGED = 75, 77  # exit codes of loadtests/load_worker.py


def serve(
    *, host: str, path: str, api_key: str | None, master: tuple[str, int], token: str, name: str, wait_s: float,
    say: Callable[[str], None],
) -> int:  # fmt: skip
    """Take part in every cell of one run; gives how many. `host` and `path`: the target as seen from here.

    Ends after the run's last cell, or `wait_s` after the last sign of a master: Unhealthy where there was none
    at all, or where it knows another token.
    """
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="deploytool-worker-") as folder,
        null_server.running() as null_url,
    ):
        own = {"role": "worker", "name": name, "host": host, "path": path, "null_url": null_url,
               "hard_end_s": UNTIL_CELL_S}  # fmt: skip
        while _listens(master, wait_s):
            last = _cell(Path(folder), own, api_key, master, token)
            if last is None:
                continue
            done += 1
            say(f"cell {done} is over")
            if last:
                return done
    if not done:
        raise Unhealthy(
            f"no master of a load at {master[0]}:{master[1]} within {wait_s:g} s",
            hint="start it there: deploytool load TARGET --master HOST:PORT --expect-workers N",
        )
    say(f"no master for {wait_s:g} s: the run is over")
    return done


def _listens(master: tuple[str, int], wait_s: float) -> bool:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(master, CONNECT_S):
            return True
        time.sleep(KNOCK_S)
    return False


def _cell(
    folder: Path, own: dict[str, object], api_key: str | None, master: tuple[str, int], token: str
) -> bool | None:
    """Whether the cell that was done was the last one; None: there was no cell."""
    outcome, document, log = folder / "outcome.json", folder / "worker.json", folder / "locust.log"
    outcome.unlink(missing_ok=True)
    document.write_text(json.dumps(own | {"outcome": str(outcome)}), encoding="utf-8")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*child.locust(document), "--worker", "--master-host", master[0], "--master-port", str(master[1])],
            cwd=folder, env=child.environment(folder, api_key, token), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait()
    finally:
        child.end(process)
    if outcome.exists():
        return bool(json.loads(outcome.read_text(encoding="utf-8"))["last"])
    if status == FORGED:
        raise Unhealthy(
            f"the master at {master[0]}:{master[1]} knows another token",
            hint="give both the same DEPLOYTOOL_LOAD_TOKEN or --token-file",
        )
    if status not in (0, NO_MASTER):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise DeploytoolError(
            f"the load process of this worker ended ({child.status_words(status)})", details=said[-5:]
        )
    return None
