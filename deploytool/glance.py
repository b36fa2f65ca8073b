"""A deployment as it is read: what its record and a glance at that record have in common.

`ps` is typed most, and pydantic takes longer to import than all the rest of it. So `ps` reads records by a
Glance, and only where something has to be written down does it take the records' own classes.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from deploytool.identity import ProcessIdentity

DEPLOYMENT_SCHEMA = 1
ROUTER = "sglang-router"  # LaunchSpec.engine of the endpoint in front of several replicas

PROCESSES = ("process", "supervisor", "owner")
# What is read of a record without its class. One that lacks some is an older tool's, and needs its defaults.
NEEDED = {
    "schema_version", "id", "name", "engine", "runtime", "profile", "model", "state", "reason", "ready_at",
    "ready_s", "launch", "process", "supervisor", "container", "owner", "wanted", "exit_status", "memory", "group",
}  # fmt: skip
SETTLED = ("ready", "unhealthy", "stopped", "died")
WANTED = ("running", "stopped")
LAUNCH_NEEDED = {"engine", "host", "port", "readiness"}
READINESS_NEEDED = {"path", "probe_timeout_s"}


class Located:
    """What has an address: a LaunchSpec, or a glance at one."""

    if TYPE_CHECKING:
        engine: str
        host: str
        port: int

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Listed:
    """What `ps` lists: a Deployment, or a glance at one."""

    if TYPE_CHECKING:
        name: str
        engine: str
        runtime: str
        profile: str
        model: str
        state: Any
        reason: str | None
        ready_s: float | None
        launch: Any
        process: ProcessIdentity | None
        container: str | None
        memory: dict[str, Any]

    @property
    def is_endpoint(self) -> bool:
        """Whether it is the router in front of replicas, those whose `group` is its name."""
        engine: str = self.launch.engine
        return engine == ROUTER

    def public(self) -> dict[str, Any]:
        """The document that `up --json` ends with and `ps --json` lists."""
        document: dict[str, Any] = {
            "name": self.name,
            "url": self.launch.url,
            "engine": self.engine,
            "runtime": self.runtime,
            "profile": self.profile,
            "model": self.model,
        }
        if self.container is not None:
            document["container"] = self.container
        else:
            running = self.state not in ("stopped", "died")
            document["pid"] = self.process.pid if self.process and running else None
        return document | {
            "state": self.state,
            "reason": self.reason,
            "ready_s": self.ready_s,
            "memory": self.memory,
        }


class _Launch(Located):
    def __init__(self, stored: dict[str, Any]) -> None:
        self.__dict__.update(stored)
        self.readiness = SimpleNamespace(**stored["readiness"])


class Glance(Listed):
    """A stored deployment by attribute, unchecked, to be read and never to be stored; `document` as it is stored."""

    def __init__(self, document: str, stored: dict[str, Any]) -> None:
        self.__dict__.update(stored)
        self.document = document
        for name in PROCESSES:
            if stored[name] is not None:
                setattr(self, name, ProcessIdentity(**stored[name]))
        self.launch = _Launch(stored["launch"])


def glance(document: str) -> Glance | None:
    """A glance at a stored deployment; None where its own class has to read it.

    That is: it is of another version, lacks what is needed, or is at its start, which a look may bring to its end.
    """
    try:
        stored = json.loads(document)
        known = stored["schema_version"] == DEPLOYMENT_SCHEMA and stored["wanted"] in WANTED
        launch, readiness = stored["launch"], stored["launch"]["readiness"]
        whole = not (
            NEEDED - stored.keys() or LAUNCH_NEEDED - launch.keys() or READINESS_NEEDED - readiness.keys()
        )
        if not known or not whole or stored["state"] not in SETTLED:
            return None
        return Glance(document, stored) if isinstance(readiness["probe_timeout_s"], int | float) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
