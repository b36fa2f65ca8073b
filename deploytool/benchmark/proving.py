"""Before a cell is measured: does the target answer a request of that very size?"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from deploytool.benchmark.options import LoadOptions, Point
from deploytool.endpoint import EndpointError, Unreachable
from deploytool.errors import Unhealthy
from deploytool.identity import is_alive
from deploytool.loadgen.plan import Live
from deploytool.records import Cell, Latency, PhaseMemory
from deploytool.targets import Resolved
from deploytool.wire.answers import parse_embeddings

QUIET_S = 3.0  # no success for so long, with errors: see whether anything listens there at all
CONNECT_TIMEOUT_S = 2.0
BUSY = (429, 503)  # an answer of a server that is there: the load itself will tell
SETTING_WRONG = {
    401: "the server wants an API key: --api-key-file FILE or DEPLOYTOOL_API_KEY",
    403: "the API key is not allowed to do this",
    404: "no such path or model there: check the base URL and --model",
}


class Proof(NamedTuple):
    """`problem` None: the answer was right, of `size` bytes. `gone`: there was no answer at all."""

    problem: str | None
    gone: bool = False
    size: int = 0


def prove(target: Resolved, bodies: Path, texts: int, timeout_s: float) -> Proof:
    """Send the first body of a batch size, byte for byte what the load sends, and read the answer.

    Raises Unhealthy for an answer that no other size would change (key, path, model).
    """
    with bodies.open("rb") as file:
        body = file.readline().rstrip(b"\n")
    try:
        with target.client(timeout_s) as client:
            answer = client.request("POST", "/v1/embeddings", content=body)
            if 200 <= answer.status < 300:
                parse_embeddings(answer.json(), texts, answer.latency_ms)
                return Proof(None, size=len(answer.body))
            said = client.redact(answer.error_message() or "without a readable message")[:300]
    except Unreachable as error:
        return Proof(error.message, gone=True)
    except EndpointError as error:
        return Proof(error.message)
    problem = f"a request of {texts} {'text' if texts == 1 else 'texts'} was answered {answer.status}: {said}"
    if answer.status in SETTING_WRONG:
        raise Unhealthy(f"{target.url}: {problem}", hint=SETTING_WRONG[answer.status])
    return Proof(None if answer.status in BUSY else problem)


def death_of(target: Resolved, live: Live) -> str | None:
    """Why a cell need not go on: our server is gone, or nothing listens there after a while of errors."""
    if live.phase in ("starting", "calibration") or not live.errors:
        return None
    deployment = target.deployment
    if deployment is not None and deployment.process is not None and not is_alive(deployment.process):
        return f"the server's process {deployment.process.pid} is gone"
    return (
        None if live.quiet_s < QUIET_S or listens(target.url) else f"nothing listens at {target.url} any more"
    )


def listens(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S),
    ):
        return True
    return False


def unmeasured(point: Point, options: LoadOptions, reason: str, memory: PhaseMemory) -> Cell:
    """The cell of a point for which there was nothing to measure, with the reason."""
    return Cell(
        batch=point.batch,
        concurrency=point.concurrency,
        mode="closed" if point.rate is None else "open",
        rate=point.rate,
        arrivals=None if point.rate is None else options.arrivals,
        state="failed",
        reason=reason,
        requests=0,
        duration_s=0.0,
        qps=0.0,
        texts_per_s=0.0,
        latency_ms=Latency(),
        vram_reason=memory.vram_reason or "this cell was not measured",
        notes=[],
    )


def restarted(target: Resolved, cell: Cell) -> str | None:
    """Why the server that ended the cell is not the one that began it, where that is so."""
    deployment = target.deployment
    if deployment is not None and deployment.process is not None and not is_alive(deployment.process):
        return f"the server's process {deployment.process.pid} is gone"
    if cell.server is not None and cell.server.restarted:
        return "the server was restarted: its metrics tell another start of its process"
    return None
