"""The programs that serve: engines with their versions, Docker and its GPU runtime."""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploytool.doctor.finding import Examination, Finding
from deploytool.engines import ENGINES
from deploytool.hardware import HardwareProfile

SOCKET = "/var/run/docker.sock"
TIMEOUT_S = 5.0
MOST_BYTES = 4 * 2**20


def examine_engines(hardware: HardwareProfile | None) -> list[Finding]:
    """A missing engine is a failure where no other one can serve the profile."""
    look = Examination("engine")
    usable = []
    for name, engine in ENGINES.items():
        version = engine.installed()
        refused = hardware is not None and engine.refuses(hardware) is not None
        if version is None:
            look.warned(name, "not installed here", engine.install)
        elif not any(version == known or version.startswith(f"{known}.") for known in engine.versions):
            known = ", ".join(engine.versions)
            look.warned(
                name,
                f"{version}; flags, memory and log lines are known for {known}",
                f"{engine.install}: a known one; else check the plan's command",
            )
        else:
            look.passed(name, version)
        if version is not None and not refused:
            usable.append(name)
    if not usable:
        where = f" for {hardware.name}" if hardware else ""
        ways = "; or ".join(engine.install for engine in ENGINES.values())
        look.failed("any engine", f"no engine is installed{where}: nothing can be served", ways)
    return look.findings


def examine_docker(hardware: HardwareProfile | None, environ: Mapping[str, str]) -> list[Finding]:
    """Docker serves beside the process runtime, which needs none of it: nothing here is a failure."""
    look = Examination("docker")
    program = shutil.which("docker", path=environ.get("PATH"))
    sdk = importlib.util.find_spec("docker") is not None
    parts = f"command {program or 'not installed'}; Python SDK {'installed' if sdk else 'not installed'}"
    if sdk:
        look.passed("programs", parts)
    else:
        look.warned("programs", parts, "for containers: pip install 'deploytool[docker]'")
    address = environ.get("DOCKER_HOST") or f"unix://{SOCKET}"
    if not address.startswith("unix://"):
        look.warned("engine", f"DOCKER_HOST is {_shown(address)}: another host, which is not asked")
        return look.findings
    path = address.removeprefix("unix://")
    try:
        info = _info(path)
    except FileNotFoundError:
        mend = "containers need a Docker engine: install it, start it (systemctl start docker)"
        look.warned("engine", f"not running, or not installed ({path} is not there)", mend)
    except PermissionError:
        look.warned(
            "engine", f"this user may not use {path}", "sudo usermod -aG docker $USER, then log in again"
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        look.warned("engine", f"{path} does not answer as Docker: {error}", "systemctl restart docker")
    else:
        _engine(look, info, hardware)
    return look.findings


def _engine(look: Examination, info: Mapping[str, Any], hardware: HardwareProfile | None) -> None:
    look.passed(
        "engine", f"{info.get('ServerVersion', 'unknown version')}, {info.get('OperatingSystem', '')}"
    )
    runtimes = sorted(info.get("Runtimes") or {})
    devices = [
        str(entry.get("ID")) for entry in info.get("DiscoveredDevices") or () if isinstance(entry, dict)
    ]
    saw = f"runtimes {', '.join(runtimes) or 'none'}"
    if "nvidia" in runtimes or any(device.startswith("nvidia.com/gpu") for device in devices):
        look.passed("gpu runtime", saw)
    elif hardware is None or hardware.kind != "cpu":
        look.warned(
            "gpu runtime",
            f"{saw}: containers get no card",
            "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker",
        )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def _info(path: str) -> dict[str, Any]:
    """Docker's `GET /info`. Raises OSError, HTTPException, ValueError."""
    if not Path(path).exists():
        raise FileNotFoundError(path)
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/info")
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES)
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise ValueError(f"HTTP {answer.status}")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("no object")
    return document


def _shown(address: str) -> str:
    """An address without what may be a password in it."""
    return address.rsplit("@", 1)[-1] if "@" in address else address
