"""Docker Compose: every replica is a service of its own on its own cards; sglang-router in front of several.

Compose's own `deploy.replicas` would give all of them the same cards. Needs Compose 2.23.1 or newer (contents
of configs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploytool import __version__
from deploytool.contained import NOBODY
from deploytool.errors import BadInput
from deploytool.exporters import compose_service as made
from deploytool.exporters.service import Service, comment, dump

FILE = "compose.yaml"
HEAD = """Made by deploytool {version}. Start it with `docker compose up -d --wait`.

Servers run as uid {nobody}, or as DEPLOYTOOL_USER=$(id -u):$(id -g), who must be able to read the files below.
"""


def files(services: Sequence[Service]) -> dict[str, str]:
    """{"compose.yaml": text} with all services, published where their launches listen.

    BadInput where two would have the same name or port.
    """
    _check(services)
    document: dict[str, Any] = {"services": {}}
    head = HEAD.format(version=__version__, nobody=NOBODY)
    for service in services:
        _add(document, service)
        head += "".join(f"\n{line}" for line in _notes(service))
    return {FILE: comment(head) + "\n" + dump(document)}


def _check(services: Sequence[Service]) -> None:
    names: dict[str, str] = {}
    ports: dict[int, str] = {}
    for service in services:
        for name in _names(service):
            if name in names:
                raise BadInput(
                    f"{names[name]} and {service.name} would both have a service {name}",
                    hint="rename one of them",
                )
            names[name] = service.name
        other = ports.setdefault(service.launch.port, service.name)
        if other != service.name:
            raise BadInput(
                f"{other} and {service.name} would both be published on port {service.launch.port}",
                hint="give one of them another `port:`",
            )


def _names(service: Service) -> list[str]:
    """The services of one deployment: its endpoint, its replicas, what fetches its model."""
    replicas = range(1, service.replicas + 1) if service.replicas > 1 else ()
    fetcher = [f"{service.name}-model"] if service.model is None else []
    return [service.name, *(f"{service.name}-{number}" for number in replicas), *fetcher]


def _notes(service: Service) -> list[str]:
    lines = []
    if service.key_line is not None:
        lines.append(
            f'{service.name}: its API key: {service.key_line} "$KEY" > {made.key_file(service)}; chmod 400'
        )
    if service.model is not None:
        lines.append(
            f"{service.name}: its model's folder: {made.variable(service)}, else {service.model[0].source}"
        )
    if service.slo is not None:
        lines.append(f"{service.name}: is to hold {service.slo}")
    return lines


def _add(document: dict[str, Any], service: Service) -> None:
    """The replicas of one deployment, what fetches its model, its router, its key."""
    name, several = service.name, service.replicas > 1
    servers = [f"{name}-{number + 1}" for number in range(service.replicas)] if several else [name]
    for number, server in enumerate(servers):
        document["services"][server] = made.server(service, number, published=not several)
    if service.model is None:
        document["services"][f"{name}-model"] = made.fetcher(service)
        document.setdefault("volumes", {})[f"{name}-model"] = {}
    if several:
        document["services"][name] = made.router(service, servers)
    if service.launch.secret is not None:
        document.setdefault("secrets", {})[f"{name}-key"] = {"file": f"./{made.key_file(service)}"}
    for file, text in service.scripts.items():
        document.setdefault("configs", {})[made.config(service, file)] = {"content": made.escaped(text)}
