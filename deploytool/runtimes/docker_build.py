"""Building the image of our server: the packaged Dockerfile, pinned packages, the server's source alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deploytool import __version__
from deploytool.errors import NotAvailable, StartFailed
from deploytool.paths import packaged
from deploytool.runtimes.docker_api import engine_host
from deploytool.runtimes.docker_found import connected
from deploytool.runtimes.docker_images import SERVER_IMAGE, pull_failed

DOCKERFILE = "st-server.Dockerfile"
PACKAGE = Path(__file__).resolve().parent.parent
LINES_SHOWN = 15

Say = Callable[[str], None]


def server_image(variant: str) -> str:
    return f"{SERVER_IMAGE}:{__version__}-{variant}"


def build(
    tag: str,
    variant: str,
    arguments: Mapping[str, str],
    say: Say,
    *,
    fresh: bool = False,
    network: str | None = None,
) -> str:
    """Build and tag the server's image; returns its id. `arguments`: the Dockerfile's ARGs.

    StartFailed with the build's last lines where a step fails, NotAvailable where the base image is not had.
    """
    from docker.errors import APIError

    given = {"VERSION": __version__, "VARIANT": variant, **arguments}
    with connected(engine_host()) as api:
        try:
            lines = api.build(
                fileobj=context(), custom_context=True, dockerfile=DOCKERFILE, tag=tag, buildargs=given,
                rm=True, forcerm=True, nocache=fresh, network_mode=network, decode=True,
            )  # fmt: skip
            return _follow(lines, tag, say)
        except APIError as error:
            raise pull_failed(
                given.get("BASE", "of the build's base"), str(error.explanation or error)
            ) from error


def context() -> io.BytesIO:
    """What the build is given, as a tar: nothing of this machine but the Dockerfile and the server."""
    folder = packaged("docker")
    if not (folder / DOCKERFILE).is_file():
        raise NotAvailable(
            f"the Dockerfile is not there: {folder / DOCKERFILE}", hint="install deploytool again"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=_anonymous)
        for path in [PACKAGE / "__init__.py", *sorted((PACKAGE / "st_server").rglob("*.py"))]:
            tar.add(path, f"deploytool/{path.relative_to(PACKAGE)}", filter=_anonymous)
    buffer.seek(0)
    return buffer


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same context, whoever builds it and when: so that the engine's cache is of use."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _follow(lines: Iterable[Mapping[str, Any]], tag: str, say: Say) -> str:
    """Tell every step as it comes; returns the image's id."""
    told: list[str] = []
    identity = ""
    for line in lines:
        text = str(line.get("stream") or line.get("error") or "").rstrip()
        identity = (line.get("aux") or {}).get("ID", identity)
        if text:
            told = [*told, text][-LINES_SHOWN:]
        if text.startswith("Step "):
            say(text)
        if "error" in line:
            raise _failed(tag, text, told)
    return identity


def _failed(tag: str, text: str, told: list[str]) -> StartFailed | NotAvailable:
    offline = ("Temporary failure in name resolution", "Could not find a version", "NewConnectionError")
    if any(mark in line for line in [*told, text] for mark in offline):
        return NotAvailable(
            f"the image {tag} was not built: the packages cannot be fetched from inside the build",
            hint="--network host lets the build use this machine's network; --build-arg PIP_INDEX_URL=URL"
            " names another index",
            details=told,
        )
    return StartFailed(
        f"the image {tag} was not built: {text}", hint="the lines above say which step failed", details=told
    )
