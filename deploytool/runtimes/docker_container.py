"""What a container is made of: from a deployment's LaunchSpec to the engine's arguments and a command line.

A server gets what it needs and nothing more: no capability, no new privilege, no user of this machine's but
the caller's own (or, for root, nobody's), a read-only view of the model, bounded memory and processes, a port
on the address asked for. It has an IPC namespace of its own: all its processes are in one container, so what
they share is bounded by `shm_mib` and nothing of the host's is seen.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.contained import (
    CAPABILITIES,
    HEALTH_INTERVAL_S,
    HEALTH_START_UP_S,
    LOG_OPTIONS,
    NOBODY,
    PIDS,
    SECRET_TARGET,
    TMPFS,
    Bind,
    argv,
    environment,
    health,
    inside_path,
    model,
)
from deploytool.launch import SECRET_FILE
from deploytool.runtimes.docker_found import LABEL_HOME, LABEL_ID

if TYPE_CHECKING:
    from deploytool.records import Deployment
    from docker import APIClient

GIGA = 1_000_000_000


@dataclass(frozen=True)
class Container:
    """One container as it is to be made. `binds` are read-only; `memory_mib` None: unbounded."""

    name: str
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    binds: tuple[Bind, ...]
    address: str
    port: int
    devices: tuple[str, ...]
    user: str
    shm_mib: int | None
    memory_mib: int | None
    read_only: bool
    health: tuple[str, ...]
    health_timeout_s: float
    start_period_s: float


def container(
    deployment: Deployment, home: Path | None, user: str, secret: Path | str = SECRET_FILE
) -> Container:
    """The container of a deployment. `secret`: the file with its key, where it has one."""
    spec = deployment.launch
    files = model(spec)
    binds = [files.bind, *(Bind(path, inside_path(path)) for path in spec.files)]
    if spec.secret is not None:
        binds.append(Bind(str(secret), SECRET_TARGET))
    probe = spec.readiness
    return Container(
        name=f"deploytool-{deployment.name}",
        image=spec.image or "",
        argv=tuple(argv(spec, files.inside)),
        environment=environment(spec),
        labels=_labels(deployment, home),
        binds=tuple(binds),
        address=_address(spec.host),
        port=spec.port,
        devices=tuple(map(str, spec.devices)),
        user=user,
        shm_mib=spec.shm_mib,
        memory_mib=spec.memory_limit_mib,
        read_only=spec.read_only_root,
        health=health(spec),
        health_timeout_s=probe.probe_timeout_s + HEALTH_START_UP_S,
        start_period_s=probe.start_timeout_s,
    )


def user_for(engine: Mapping[str, Any]) -> str:
    """uid:gid of the server: the caller's own, so that it reads the caller's files; nobody's for root.

    In a rootless engine the container's root is the caller, an ordinary user of this machine.
    """
    if any("rootless" in option for option in engine.get("SecurityOptions") or ()):
        return "0:0"
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}"


def _labels(deployment: Deployment, home: Path | None) -> dict[str, str]:
    """Who it is, complete enough to be found and understood where the record is lost."""
    labels = {
        LABEL_ID: deployment.id,
        "deploytool.name": deployment.name,
        "deploytool.model": deployment.model,
        "deploytool.engine": deployment.engine,
        "deploytool.profile": deployment.profile,
        "deploytool.url": deployment.launch.url,
    }
    return labels | ({LABEL_HOME: str(home)} if home else {})


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host.strip("[]")


def create_arguments(api: APIClient, made: Container) -> dict[str, Any]:
    """Arguments of the SDK's `create_container`. A bind whose source is missing is refused by the engine."""
    from docker.types import DeviceRequest, LogConfig, Mount

    gpus = (
        [DeviceRequest(device_ids=list(made.devices), capabilities=[CAPABILITIES])] if made.devices else None
    )
    host = api.create_host_config(
        port_bindings={f"{made.port}/tcp": (made.address, made.port)},
        mounts=[Mount(bind.target, bind.source, type="bind", read_only=True) for bind in made.binds],
        tmpfs=TMPFS,
        device_requests=gpus,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        read_only=made.read_only,
        pids_limit=PIDS,
        init=True,
        ipc_mode="private",
        shm_size=f"{made.shm_mib}m" if made.shm_mib else None,
        mem_limit=f"{made.memory_mib}m" if made.memory_mib else None,
        memswap_limit=f"{made.memory_mib}m" if made.memory_mib else None,
        log_config=LogConfig(type="local", config=LOG_OPTIONS),
        restart_policy={"Name": "no"},  # until it is proven: see DockerRuntime.keep_up
    )
    return {
        "image": made.image,
        "name": made.name,
        "entrypoint": [made.argv[0]],
        "command": list(made.argv[1:]),
        "environment": dict(made.environment),
        "labels": dict(made.labels),
        "ports": [(made.port, "tcp")],
        "user": made.user,
        "working_dir": "/",
        "healthcheck": {
            "test": ["CMD", *made.health],
            "interval": HEALTH_INTERVAL_S * GIGA,
            "timeout": int(made.health_timeout_s * GIGA),
            "start_period": int(made.start_period_s * GIGA),
            "retries": 3,
        },
        "host_config": host,
    }


def command(made: Container) -> str:
    """The same container as one pastes it into a shell; in the foreground, and gone when it ends."""
    words = ["docker", "run", "--rm", "--init", "--name", made.name, "--user", made.user]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--ipc", "private"]
    words += ["--pids-limit", str(PIDS)]
    words += [word for path, options in TMPFS.items() for word in ("--tmpfs", f"{path}:{options}")]
    if made.read_only:
        words.append("--read-only")
    if made.memory_mib:
        words += ["--memory", f"{made.memory_mib}m", "--memory-swap", f"{made.memory_mib}m"]
    if made.shm_mib:
        words += ["--shm-size", f"{made.shm_mib}m"]
    if made.devices:
        words += ["--gpus", f'"device={",".join(made.devices)}","capabilities=compute,utility"']
    for bind in made.binds:
        words += ["--mount", f"type=bind,src={bind.source},dst={bind.target},readonly"]
    words += [word for item in made.environment.items() for word in ("--env", "=".join(item))]
    address = f"[{made.address}]" if ":" in made.address else made.address
    words += ["--publish", f"{address}:{made.port}:{made.port}"]
    words += ["--entrypoint", made.argv[0], made.image, *made.argv[1:]]
    return " ".join(shlex.quote(word) for word in words)
