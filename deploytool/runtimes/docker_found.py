"""Containers of this tool as the engine has them: found by id or labels, read, ended, removed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.identity import ProcessIdentity, identify
from deploytool.runtimes.contract import Running
from deploytool.runtimes.docker_api import connect, engine_host, get, unreachable

if TYPE_CHECKING:
    from docker import APIClient

LABEL_ID = "deploytool.id"
LABEL_HOME = "deploytool.home"
PLACE = "docker.json"
SHORT = 12  # digits of a container's id that people are shown


def home_of(folder: Path) -> Path:
    """The state folder that holds `deployments/ID`."""
    return folder.parent.parent


def place(folder: Path) -> tuple[str, str | None]:
    """Which engine has this deployment, and its container's id; None where none was made."""
    try:
        document = json.loads((folder / PLACE).read_text(encoding="utf-8"))
        return document["host"], document["container"]
    except (OSError, ValueError, KeyError):
        return engine_host(), None


def write_place(folder: Path, host: str, container: str) -> None:
    """Written whole or not at all."""
    draft = folder / f"{PLACE}.new"
    draft.write_text(json.dumps({"host": host, "container": container}), encoding="utf-8")
    draft.replace(folder / PLACE)


def find(deployment_id: str, folder: Path) -> Mapping[str, Any] | None:
    """The engine's document of a deployment's container, by its id or labels; None where there is none."""
    host, identity = place(folder)
    if identity is None:
        entries = listed(host, deployment_id, home_of(folder))
        identity = entries[0]["Id"] if entries else None
    if identity is None:
        return None
    found: Mapping[str, Any] | None = get(host, f"/containers/{identity}/json")
    return found


def listed(host: str, deployment_id: str | None, home: Path) -> list[Mapping[str, Any]]:
    """Containers of this state folder, ended ones too; of one deployment, or of all (None)."""
    labels = [f"{LABEL_HOME}={home}"] + ([f"{LABEL_ID}={deployment_id}"] if deployment_id else [])
    entries: list[Mapping[str, Any]] = get(
        host, "/containers/json", {"all": "true", "filters": {"label": labels}}
    )
    return entries


def running(found: Mapping[str, Any] | None, identity: str) -> Running:
    """The container, and its first process where this machine sees it."""
    return Running(container=identity[:SHORT], process=host_process(found) if found else None)


def host_process(found: Mapping[str, Any]) -> ProcessIdentity | None:
    """The container's first process. None where its pid is of another machine (an engine in a VM)."""
    pid = int(found["State"].get("Pid") or 0)
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii", errors="replace") if pid else ""
    except OSError:
        return None
    return identify(pid) if found["Id"] in groups else None


@contextlib.contextmanager
def connected(host: str) -> Iterator[APIClient]:
    """The SDK's client for a while; an engine that goes away meanwhile is told as NotAvailable."""
    api = connect(host)
    from requests.exceptions import RequestException

    try:
        yield api
    except RequestException as error:
        raise unreachable(host, error) from error
    finally:
        api.close()


def end(api: APIClient, container: str, grace_s: float) -> None:
    """SIGTERM, `grace_s` seconds, SIGKILL. One that is gone or ended already is fine."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        api.stop(container, timeout=round(grace_s))


def remove(api: APIClient, container: str) -> None:
    """Remove a container, alive or not; one that is gone already is fine, one that stays is seen later."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        api.remove_container(container, force=True, v=True)
