"""A server inside a container, whoever makes the container: paths, command line, environment, health check.

The Docker runtime makes one from this, the exporters write files from it: the same server in both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deploytool.launch import SECRET_FILE, LaunchSpec

INSIDE = "/models"
CODE_FLAG = "--trust-remote-code"
FILES = "/files"
SECRET_TARGET = "/run/secrets/deploytool.yaml"  # noqa: S105 - a path: SGLang reads YAML, by the suffix
PIDS = 8192  # threads count: torch alone starts one per processor and library
NOBODY = 65532  # the usual uid of images without a user of their own
PYTHON = "python3"
# Compiled kernels are loaded from there, so it must allow execution; Docker's default does not.
TMPFS = {"/tmp": "rw,exec,nosuid,nodev,mode=1777"}  # noqa: S108 - inside the container
LOG_OPTIONS = {"max-size": "16m", "max-file": "2"}
HEALTH_INTERVAL_S = 30
HEALTH_START_UP_S = 5  # a Python on a busy machine
CAPABILITIES = ["gpu", "compute", "utility"]  # CUDA, and NVML


class Bind(NamedTuple):
    """A read-only bind mount: a path of this machine, and where the container sees it."""

    source: str
    target: str


class Model(NamedTuple):
    bind: Bind
    inside: str


def model(spec: LaunchSpec) -> Model:
    """The mount of a model's folder and the path that the engine is given.

    A snapshot of the Hugging Face cache is links into its neighbour `blobs/`, so the model's whole folder of
    the cache is mounted; code of another repository lies elsewhere in the cache, so that needs all of it.
    A model that is not here (in a plan) has a placeholder for its folder.
    """
    if not Path(spec.model_path).expanduser().exists():
        name = spec.model_path.rpartition("/")[2]
        return Model(Bind("{model_folder}", f"{INSIDE}/{name}"), f"{INSIDE}/{name}")
    path = Path(os.path.abspath(Path(spec.model_path).expanduser()))  # noqa: PTH100 - links stay as they are
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        root = path.parents[2] if CODE_FLAG in spec.argv else path.parents[1]
        target = INSIDE if CODE_FLAG in spec.argv else f"{INSIDE}/{root.name}"
        return Model(Bind(str(root), target), f"{target}/{path.relative_to(root)}")
    target = f"{INSIDE}/{path.name or 'model'}"
    return Model(Bind(str(path), target), target)


def argv(spec: LaunchSpec, inside: str) -> Iterator[str]:
    """The engine's command line as it is inside: its own program, the mounted model, every address there."""
    words = list(spec.argv)
    words[0] = spec.program or words[0]
    host = words.index("--host") + 1 if "--host" in words[:-1] else None
    for index, word in enumerate(words):
        if index == host:
            yield "0.0.0.0"  # the container's own addresses: what others reach is what is published
        elif word == SECRET_FILE:
            yield SECRET_TARGET
        else:
            yield inside if word == spec.model_path else inside_path(word) if word in spec.files else word
    if spec.secret is not None and spec.secret.kind == "env":
        # A variable would stand in `docker inspect` for everyone who may ask the engine.
        yield from (spec.secret.file_flag, SECRET_TARGET)


def inside_path(path: str) -> str:
    """Where the container sees a file of this machine that argv names."""
    return f"{FILES}/{path.rpartition('/')[2]}"


def environment(spec: LaunchSpec) -> dict[str, str]:
    """No secret; no hub, since the model is mounted; a home that can be written, for caches of kernels."""
    return {
        **spec.env,
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",  # noqa: S108 - inside the container
        "USER": "deploytool",  # torch asks for a name, and the uid has none inside
        "PYTHONUNBUFFERED": "1",
    }


def health(spec: LaunchSpec) -> tuple[str, ...]:
    """The readiness path asked from inside, with the time that the engine's path takes."""
    code = (
        f"import http.client as h; c = h.HTTPConnection('127.0.0.1', {spec.port}, "
        f"timeout={spec.readiness.probe_timeout_s:g}); c.request('GET', '{spec.readiness.path}'); "
        "raise SystemExit(c.getresponse().status != 200)"
    )
    return (PYTHON, "-c", code)
