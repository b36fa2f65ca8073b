"""This machine: Python, memory, limits, disk, ports."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from deploytool import engines, hub_cache, paths
from deploytool.deployment.ports import check_port
from deploytool.doctor.finding import Examination, Finding
from deploytool.errors import DeploytoolError
from deploytool.telemetry import host

GIB = 2**30
LOWEST_PYTHON = (3, 11)
FILES = 4096  # open files: a load of a thousand clients, and a server's own
SHARED_MEMORY = GIB  # NCCL and SGLang's processes exchange data there; Docker's default is 64 MiB
ROOM = 5 * GIB


def examine(environ: Mapping[str, str]) -> list[Finding]:
    look = Examination("machine")
    _python(look)
    memory = host.memory()
    limit = "" if memory.limited_by == "host" else ", by the limit of this container (cgroup)"
    look.passed("memory", f"{memory.available_mib:,.0f} of {memory.total_mib:,.0f} MiB free{limit}")
    _open_files(look)
    _shared_memory(look)
    _disk(look, hub_cache.hub_cache(environ))
    _state(look)
    _ports(look)
    return look.findings


def _python(look: Examination) -> None:
    version = platform.python_version()
    saw = f"{version} at {sys.executable}"
    if sys.version_info[:2] < LOWEST_PYTHON:
        look.failed("python", saw, "use Python 3.11 or newer")
    else:
        look.passed("python", saw)


def _open_files(look: Examination) -> None:
    try:
        import resource
    except ImportError:
        look.warned("open files", "this system does not say how many files a process may open")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    shown = ["unlimited" if limit == unlimited else limit for limit in (soft, hard)]
    saw = f"{shown[0]} (ulimit -n; hard limit {shown[1]})"
    if soft != unlimited and soft < FILES:
        most = FILES * 16 if hard == unlimited else min(hard, FILES * 16)
        look.warned(
            "open files", saw, f"ulimit -n {most}: loads with many clients fail with EMFILE otherwise"
        )
    else:
        look.passed("open files", saw)


def _shared_memory(look: Examination) -> None:
    place = Path("/dev/shm")  # noqa: S108 - its size is asked, nothing is put there
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        look.warned("shared memory", f"{place}: {error.strerror or error}", "mount a tmpfs there")
        return
    saw = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {place}"
    if usage.free >= SHARED_MEMORY:
        look.passed("shared memory", saw)
        return
    mend = f"docker run --shm-size 32g; on a host: mount -o remount,size=50% {place}"
    look.warned("shared memory", saw, f"needed where several cards share a model: {mend}")


def _disk(look: Examination, cache: Path) -> None:
    for name, folder in (("model cache", cache), ("data folder", paths.data_dir())):
        place = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            look.warned(name, f"{folder}: {error.strerror or error}")
            continue
        saw = f"{folder}: {free / GIB:.1f} GiB free"
        if not os.access(place, os.W_OK):
            look.warned(name, f"{saw}, not writable", "set HF_HOME to a folder of yours")
        elif free < ROOM:
            mend = "free some space, or set HF_HOME to a folder with room"
            look.warned(name, saw, mend if name == "model cache" else "free some space")
        else:
            look.passed(name, saw)


def _state(look: Examination) -> None:
    from deploytool.store import Store

    try:
        with Store() as store:
            count = len(store.deployments())
    except DeploytoolError as error:
        look.failed("state", error.message, error.hint, type(error))
        return
    look.passed("state", f"{count} deployment{'' if count == 1 else 's'} recorded")


def _ports(look: Examination) -> None:
    """The usual ports of the engines. One that is taken is no failure: `--port auto` finds another."""
    for name, engine in engines.ENGINES.items():
        port = next(setting.default for setting in engine.settings if setting.name == "port")
        try:
            check_port("127.0.0.1", int(str(port)))
        except DeploytoolError as error:
            look.warned(f"port {port}", f"{error.message} ({name}'s usual one)", error.hint)
        else:
            look.passed(f"port {port}", f"free on 127.0.0.1 ({name}'s usual one)")
