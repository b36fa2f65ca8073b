"""One service of a compose.yaml: a server, what fetches its model, the router; hardened as the Docker runtime's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from deploytool.contained import (
    CAPABILITIES,
    FILES,
    HEALTH_START_UP_S,
    INSIDE,
    LOG_OPTIONS,
    NOBODY,
    PIDS,
    PYTHON,
    SECRET_TARGET,
    TMPFS,
    environment,
    health,
)
from deploytool.exporters.service import Service
from deploytool.launch import Readiness

# The gateway's image holds the Python package sglang_router of the same version.
ROUTER_IMAGE = "lmsysorg/sgl-model-gateway:v0.3.2"
ROUTER_MIB = 1024
ROUTER_READY = Readiness(path="/readiness", probe_timeout_s=5, start_timeout_s=120)
# The key comes from its file: the router itself takes it from the command line only, which everyone may read.
ROUTER_CODE = (
    "import sys; from sglang_router.launch_router import launch_router, parse_router_args; "
    "args = parse_router_args(sys.argv[1:]); {key}launch_router(args)"
)
USER = f"${{DEPLOYTOOL_USER:-{NOBODY}:{NOBODY}}}"


def server(service: Service, number: int, *, published: bool) -> dict[str, Any]:
    """Replica `number`, from 0 on; `published` where clients reach it without a router."""
    launch = service.launch
    made = _hardened(launch.image or "", service.command, _limit(service))
    made["environment"] = {name: escaped(value) for name, value in environment(launch).items()}
    made["labels"] = {"deploytool.name": service.name, "deploytool.model": service.card.name}
    made |= {"read_only": True} if launch.read_only_root else {}
    made |= {"shm_size": f"{service.shm_mib}m"} if service.shm_mib else {}
    made["volumes"] = [_model_volume(service)]
    made |= _given(service)
    if service.model is None:
        made["depends_on"] = {f"{service.name}-model": {"condition": "service_completed_successfully"}}
    made["healthcheck"] = _health(health(launch), launch.readiness)
    if published:
        made["ports"] = [_port(service)]
    if service.on_cards:
        device = {"driver": "nvidia", "device_ids": _cards(service, number), "capabilities": CAPABILITIES}
        made["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return made


def _cards(service: Service, number: int) -> list[str]:
    """The cards of a replica: those of the launch where it names enough for all, else from 0 on."""
    devices, each = service.launch.devices, service.cards
    every = devices if len(devices) >= each * service.replicas else range(each * service.replicas)
    return [str(device) for device in every[number * each : (number + 1) * each]]


def _given(service: Service) -> dict[str, Any]:
    """The files that a server is given: the engine's own, and the key."""
    found: dict[str, Any] = {}
    if service.files:
        found["configs"] = [
            {"source": config(service, name), "target": f"{FILES}/{name}"} for name in service.files
        ]
    if service.launch.secret is not None:
        found["secrets"] = [_secret(service)]
    return found


def _secret(service: Service) -> dict[str, str]:
    return {"source": f"{service.name}-key", "target": SECRET_TARGET.rpartition("/")[2]}


def fetcher(service: Service) -> dict[str, Any]:
    """Fills the model's volume and ends. Root, because a new volume is root's; it may do nothing else."""
    made = _hardened(service.launch.image or "", service.fetching, None)
    made |= {"user": "0:0", "read_only": True, "restart": "on-failure:5"}
    made["environment"] = {"HF_HOME": f"{INSIDE}/.hub", "HF_TOKEN": "${HF_TOKEN:-}"}
    made["volumes"] = [_model_volume(service) | {"read_only": False}]
    made["configs"] = [{"source": config(service, "fetch_model.py"), "target": f"{FILES}/fetch_model.py"}]
    return made


def router(service: Service, servers: Sequence[str]) -> dict[str, Any]:
    """sglang-router: asks each server whether it is ready, and passes requests to those that are."""
    launch = service.launch
    key = "" if launch.secret is None else f"args.api_key = {service.key_code}; "
    flags = {
        "--policy": "round_robin",
        "--health-check-endpoint": launch.readiness.path,
        "--health-check-timeout-secs": f"{launch.readiness.probe_timeout_s:.0f}",
        "--health-check-interval-secs": "5",
        "--worker-startup-timeout-secs": f"{launch.readiness.start_timeout_s:.0f}",
        "--log-level": "warn",
    }
    words = [PYTHON, "-c", ROUTER_CODE.format(key=key), "--host", "0.0.0.0", "--port", str(launch.port)]
    words += [word for flag in flags.items() for word in flag]
    words.append(
        "--disable-circuit-breaker"
    )  # it counts 4xx: bad requests of one client would stop all others
    words += ["--worker-urls", *(f"http://{server}:{launch.port}" for server in servers)]
    made = _hardened(ROUTER_IMAGE, words, ROUTER_MIB)
    made |= {"read_only": True, "environment": {"HOME": "/tmp"}}  # noqa: S108 - inside
    if launch.secret is not None:
        made["secrets"] = [_secret(service)]
    made["depends_on"] = {server: {"condition": "service_healthy"} for server in servers}
    made["healthcheck"] = _health(health(launch.model_copy(update={"readiness": ROUTER_READY})), ROUTER_READY)
    made["ports"] = [_port(service)]
    return made


def _hardened(image: str, command: Sequence[str], memory_mib: int | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "image": image,
        "entrypoint": [escaped(command[0])],
        "command": [escaped(word) for word in command[1:]],
        "user": USER,
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": PIDS,
        "tmpfs": [f"{path}:{options}" for path, options in TMPFS.items()],
        "restart": "unless-stopped",
        "logging": {"driver": "local", "options": LOG_OPTIONS},
    }
    return made | ({"mem_limit": f"{memory_mib}m"} if memory_mib else {})


def _limit(service: Service) -> int | None:
    """The limit that the launch has; with a card none, as what else the machine does is not known."""
    return service.launch.memory_limit_mib or (None if service.on_cards else service.host_mib[1])


def _model_volume(service: Service) -> dict[str, Any]:
    if service.model is None:
        target = service.folder.rpartition("/")[0]
        return {"type": "volume", "source": f"{service.name}-model", "target": target, "read_only": True}
    source, target = service.model[0]
    place = f"${{{variable(service)}:-{escaped(source)}}}"
    # A folder that is missing is an error, not an empty folder made by the engine.
    return {
        "type": "bind", "source": place, "target": target, "read_only": True, "bind": {"create_host_path": False},
    }  # fmt: skip


def _health(test: Sequence[str], readiness: Readiness) -> dict[str, Any]:
    """Time-outs that the engine's path fits in, with what a Python needs to start on a busy machine."""
    return {
        "test": ["CMD", *map(escaped, test)],
        "interval": "10s",  # others wait for the first one that holds
        "timeout": f"{readiness.probe_timeout_s + HEALTH_START_UP_S:.0f}s",
        "start_period": f"{readiness.start_timeout_s:.0f}s",
        "retries": 3,
    }


def _port(service: Service) -> str:
    host = service.launch.host.strip("[]").replace("localhost", "127.0.0.1")
    address = f"[{host}]" if ":" in host else host
    return f"{address}:{service.launch.port}:{service.launch.port}"


def variable(service: Service) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", service.name.upper()).strip("_") + "_MODEL"


def key_file(service: Service) -> str:
    return f"{service.name}.key"


def config(service: Service, file: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", f"{service.name}-{file}")


def escaped(text: str) -> str:
    """Compose reads `$` as a variable; `$$` is one dollar."""
    return text.replace("$", "$$")
