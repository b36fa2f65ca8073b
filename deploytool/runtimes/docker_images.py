"""Images: is it here and for this machine; fetch it on purpose, with progress, never by surprise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deploytool.errors import BadInput, DeploytoolError, Incompatible, NotAvailable
from deploytool.runtimes.docker_api import connect, get, unreachable

if TYPE_CHECKING:
    from docker import APIClient

SERVER_IMAGE = "deploytool/st-server"
SAY_EVERY_S = 10.0
GIGA = 1e9

Say = Callable[[str], None]


def find(host: str, image: str) -> Mapping[str, Any] | None:
    """What the engine knows of an image; None where it is not on this machine."""
    found: Mapping[str, Any] | None = get(host, f"/images/{quote(image, safe='/:@')}/json")
    return found


def require(host: str, image: str | None, *, offline: bool = False) -> Mapping[str, Any]:
    """The image, present and built for this machine; NotAvailable or Incompatible otherwise."""
    if not image:
        raise BadInput("no image was named for this engine", hint="--image NAME")
    found = find(host, image)
    if found is None:
        raise missing(image, offline=offline)
    here, built = get(host, "/version").get("Arch"), found.get("Architecture")
    if here and built and here != built:
        raise Incompatible(
            f"the image {image} is built for {built}, this machine is {here}",
            hint="take one for this machine's processor, with --image",
        )
    return found


def missing(image: str, *, offline: bool = False) -> NotAvailable:
    if image.startswith(f"{SERVER_IMAGE}:"):
        kind = image.rpartition("-")[2]
        return NotAvailable(
            f"the image {image} is not built yet on this machine",
            hint=f"deploytool image build --variant {kind}; or --image with one that is here",
        )
    if offline:
        return NotAvailable(
            f"the image {image} is not on this machine",
            hint="`docker save` it where there is a network, `docker load` it here",
        )
    return NotAvailable(
        f"the image {image} is not on this machine, and nothing is fetched unasked",
        hint="--pull fetches it (some GB); with no network, `docker save` it elsewhere and `docker load` it",
    )


def obtain(host: str, image: str, *, pull: bool, offline: bool, say: Say, tick: Say | None) -> None:
    """Have the image here; `pull`: ask its registry even where one is. See `require` for the errors."""
    if pull:
        api = connect(host)
        try:
            _pull(api, host, image, say, tick)
        finally:
            api.close()
    require(host, image, offline=offline)


def _pull(api: APIClient, host: str, image: str, say: Say, tick: Say | None) -> None:
    from docker.errors import APIError, DockerException
    from docker.utils import parse_repository_tag
    from requests.exceptions import RequestException

    repository, tag = parse_repository_tag(image)
    say(f"fetching the image {image}")
    try:
        lines = api.pull(repository, tag=tag or "latest", stream=True, decode=True)
        _follow(lines, image, say, tick)
    except APIError as error:
        raise pull_failed(image, str(error.explanation or error)) from error
    except (DockerException, RequestException) as error:
        raise unreachable(host, error) from error


def _follow(lines: Iterable[Mapping[str, Any]], image: str, say: Say, tick: Say | None) -> None:
    """Progress of all layers together: on a terminal as it comes, elsewhere a line now and then."""
    progress = Layers()
    said_at = time.monotonic()
    for line in lines:
        if "error" in line:
            raise pull_failed(image, str(line["error"]))
        progress.add(line)
        if tick is not None:
            tick(f"fetching {image}: {progress}")
        elif time.monotonic() - said_at >= SAY_EVERY_S:
            said_at = time.monotonic()
            say(f"fetching {image}: {progress}")
    say(f"fetched {image}")


class Layers:
    """Bytes of an image's layers, as the engine's progress lines tell them."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}
        self.present = 0

    def add(self, line: Mapping[str, Any]) -> None:
        layer, status, detail = line.get("id"), line.get("status"), line.get("progressDetail") or {}
        if layer is None:
            return
        if status == "Already exists":
            self.present += 1
        elif status == "Downloading" and detail.get("total"):
            self.sizes[layer] = (int(detail["current"]), int(detail["total"]))
        elif status in ("Download complete", "Pull complete") and layer in self.sizes:
            total = self.sizes[layer][1]
            self.sizes[layer] = (total, total)

    def __str__(self) -> str:
        done = sum(current for current, _ in self.sizes.values())
        total = sum(size for _, size in self.sizes.values())
        here = f", {self.present} layers were here" if self.present else ""
        if not total:
            return f"nothing to download{here}" if self.present else "asking the registry"
        unpacking = ", unpacking" if done == total else ""
        return f"{done / GIGA:.2f} of {total / GIGA:.2f} GB{unpacking}{here}"


def pull_failed(image: str, text: str) -> DeploytoolError:
    """Why a registry did not give an image."""
    details = [f"Docker said: {text.strip()}"]
    low = text.lower()
    if "denied" in low or "unauthorized" in low:
        return NotAvailable(
            f"the registry does not give {image} to you: it is not there, or private",
            hint="check the name; for a private one `docker login` first",
            details=details,
        )
    if "manifest unknown" in low or "not found" in low or "no such image" in low:
        return NotAvailable(
            f"the registry has no image {image}", hint="check its tag, or --image NAME:TAG", details=details
        )
    if "no space left" in low:
        return NotAvailable(
            f"the disk of the Docker engine has no room for {image}",
            hint="`docker system df` shows what takes it",
            details=details,
        )
    return NotAvailable(
        f"the image {image} could not be fetched",
        hint="is there a network, and a proxy set for the Docker engine? without one: `docker save` it"
        " elsewhere, `docker load` it here",
        details=details,
    )
