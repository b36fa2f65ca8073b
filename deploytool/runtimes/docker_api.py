"""The Docker engine: where its socket is, cheap questions by the standard library, the SDK for the rest.

Looking at containers (`ps` does, ten times a second while one starts) needs one GET over a Unix socket; the
SDK takes a quarter of a second to import. So what only reads goes through `get`, and the SDK is imported
where something is created, pulled, built, followed or ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from deploytool.errors import NotAvailable, missing_extra

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from docker import APIClient

SOCKET = "/var/run/docker.sock"
ASK_TIMEOUT_S = 3.0
WORK_TIMEOUT_S = 120  # creating or removing on a busy disk takes its time
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OK, NOT_FOUND = 200, 404


def engine_host(environ: Mapping[str, str] = os.environ) -> str:
    """DOCKER_HOST, else the usual socket, else that of a rootless engine of this user."""
    if environ.get("DOCKER_HOST"):
        return environ["DOCKER_HOST"]
    rootless = Path(environ.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    return f"unix://{rootless}" if not Path(SOCKET).exists() and rootless.exists() else f"unix://{SOCKET}"


def check_local(host: str) -> None:
    """NotAvailable for an engine on another machine: the model's folder and the port would be there."""
    parts = urlsplit(host)
    if parts.scheme == "unix" or (parts.scheme in ("tcp", "http") and parts.hostname in LOOPBACK):
        return
    raise NotAvailable(
        f"the Docker engine {host} is not on this machine: it sees neither the model's folder nor the port",
        hint="run deploytool on that machine, or unset DOCKER_HOST",
    )


def get(host: str, path: str, query: Mapping[str, Any] | None = None) -> Any:
    """One JSON document of the engine; None where it answers 404. NotAvailable where nobody answers."""
    check_local(host)
    parts = urlsplit(host)
    if parts.scheme == "unix" and not Path(parts.path).exists():
        raise unreachable(host, FileNotFoundError(parts.path))  # the usual case of `ps`: nothing to import
    from http.client import HTTPException

    asked = {
        name: json.dumps(value) if isinstance(value, dict) else value for name, value in (query or {}).items()
    }
    try:
        with closing(_connection(host)) as connection:
            connection.request("GET", f"{path}?{urlencode(asked)}" if asked else path)
            answer = connection.getresponse()
            body = answer.read()
    except (OSError, HTTPException) as error:
        raise unreachable(host, error) from error
    if answer.status == NOT_FOUND:
        return None
    if answer.status != OK:
        said = body.decode(errors="replace").strip()[:300]
        raise NotAvailable(
            f"{host} answered {answer.status} to {path}: {said}",
            hint="is it a Docker engine? try `docker info`",
        )
    return json.loads(body)


def unreachable(host: str, error: BaseException) -> NotAvailable:
    """Why the engine does not answer, each cause with its own mend."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, FileNotFoundError):
        return NotAvailable(
            f"there is no Docker engine here: no socket at {host}",
            hint="install Docker and start it (`sudo systemctl start docker`), or name another engine with"
            " DOCKER_HOST; --runtime process needs none",
        )
    if isinstance(cause, ConnectionRefusedError):
        return NotAvailable(
            f"the Docker engine does not run: nobody answers at {host}",
            hint="sudo systemctl start docker; why it stopped: journalctl -u docker",
        )
    if isinstance(cause, PermissionError):
        return NotAvailable(
            f"this user may not use the Docker engine at {host}",
            hint="sudo usermod -aG docker $USER and log in again (its members can become root), or use"
            " rootless Docker",
        )
    if isinstance(cause, TimeoutError):
        return NotAvailable(
            f"the Docker engine at {host} does not answer",
            hint="it hangs or is very busy: journalctl -u docker; restart it",
        )
    return NotAvailable(
        f"the Docker engine at {host} cannot be asked: {cause or type(cause).__name__}",
        hint="does `docker info` work? DOCKER_HOST must be unix:///PATH or tcp://127.0.0.1:PORT",
    )


def connect(host: str) -> APIClient:
    """The SDK's client; NotAvailable where the SDK is not installed or nobody answers."""
    get(host, "/version")  # told by the same words, whoever meets it first
    try:
        from docker import APIClient
    except ImportError as error:
        raise missing_extra("docker", "docker", "the docker runtime") from error
    from docker.errors import DockerException

    try:
        return APIClient(base_url=host, version="auto", timeout=WORK_TIMEOUT_S)
    except DockerException as error:
        raise unreachable(host, error) from error


def _connection(host: str) -> HTTPConnection:
    import socket
    from http.client import HTTPConnection

    parts = urlsplit(host)
    if parts.scheme != "unix":
        return HTTPConnection(parts.hostname or LOOPBACK[0], parts.port or 2375, timeout=ASK_TIMEOUT_S)
    connection = HTTPConnection("localhost", timeout=ASK_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(ASK_TIMEOUT_S)
        connection.sock.connect(parts.path)
    except OSError:
        connection.close()
        raise
    return connection
