"""Runtimes by the name that users write. A new one is one module and one line here."""

from __future__ import annotations

from deploytool.errors import UnknownName
from deploytool.runtimes.contract import LogReader, Observation, Running, Runtime, Stray
from deploytool.runtimes.docker import DockerRuntime
from deploytool.runtimes.process import ProcessRuntime

__all__ = ["RUNTIMES", "LogReader", "Observation", "Running", "Runtime", "Stray", "runtime"]

RUNTIMES: dict[str, Runtime] = {
    ProcessRuntime.name: ProcessRuntime(),
    DockerRuntime.name: DockerRuntime(),
}


def runtime(name: str) -> Runtime:
    """The runtime of that name; UnknownName otherwise."""
    if name not in RUNTIMES:
        raise UnknownName("runtime", name, RUNTIMES)
    return RUNTIMES[name]
