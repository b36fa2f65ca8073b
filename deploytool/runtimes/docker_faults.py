"""What the engine refuses, and why: each cause with a message and a mend of its own.

The texts are those of moby and runc (seen with engine 20.10); the unknown is told as the engine says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from deploytool.errors import BadInput, DeploytoolError, NotAvailable, StartFailed, Taken
from deploytool.runtimes.docker_api import unreachable
from deploytool.runtimes.docker_container import Container


class Refusal(NamedTuple):
    """A pattern over the engine's text, the error that it is, what to say, and the mend."""

    pattern: str
    kind: type[DeploytoolError]
    message: str
    hint: str


TOOLKIT = (
    "install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker` and"
    " `sudo systemctl restart docker`"
)
REFUSALS = (
    Refusal(
        r"could not select device driver|unknown or invalid runtime name: nvidia",
        NotAvailable,
        "this Docker engine cannot hand a GPU to a container: the NVIDIA runtime is missing",
        TOOLKIT,
    ),
    Refusal(
        r"nvidia-container-cli: (.+?)(?:: unknown)?$",
        NotAvailable,
        "the NVIDIA runtime could not hand the GPU over: {found}",
        "`nvidia-smi` must work on this machine; after a driver update restart it",
    ),
    Refusal(
        r"[Cc]onflict\. The container name",
        Taken,
        "the container name {name} is taken",
        "`docker ps -a --filter name={name}` shows by whom: another state folder of deploytool, or by hand; "
        "--name gives this one another name",
    ),
    Refusal(
        r"port is already allocated",
        Taken,
        "port {port} is taken by another container",
        "`docker ps` shows which; --port auto finds a free one",
    ),
    Refusal(
        r"address already in use",
        Taken,
        "port {port} is taken by a program of this machine",
        "`ss -ltnp` shows which; --port auto finds a free one",
    ),
    Refusal(
        r"cannot assign requested address",
        BadInput,
        "{address} is no address that this Docker engine can publish on",
        "--host 127.0.0.1 is always there",
    ),
    Refusal(
        r"bind source path does not exist: (\S+)",
        NotAvailable,
        "what is to be mounted is not there: {found}",
        "was it moved or deleted meanwhile? an engine in a virtual machine sees only folders shared with it",
    ),
    Refusal(
        r"[Nn]o such image", NotAvailable, "the image {image} is not on this machine", "--pull fetches it"
    ),
    Refusal(
        r"\"docker-init\": executable file not found",
        NotAvailable,
        "this Docker engine lacks its docker-init",
        "install the package `tini` or `docker-init` of your distribution",
    ),
    Refusal(
        r"exec format error",
        NotAvailable,
        "the image {image} is built for another kind of processor",
        "take one for this machine's, with --image",
    ),
    Refusal(
        r"executable file not found|(?:exec|stat) [^:]+: (?:no such file or directory|permission denied)",
        NotAvailable,
        "the image {image} has no program {program} that can be run",
        "is it an image of this engine? --image names another one",
    ),
    Refusal(
        r"no space left on device",
        NotAvailable,
        "the disk of the Docker engine is full",
        "`docker system df` shows what takes it",
    ),
    Refusal(
        r"[Mm]inimum memory limit|memory limit.*(?:invalid|too low)",
        BadInput,
        "a container cannot live in {memory} MiB",
        "--memory-limit takes MiB; leave it out for a limit by the plan",
    ),
)


@contextmanager
def told(host: str, made: Container) -> Iterator[None]:
    """Within, what the engine refuses is raised as the error that it is for the user."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError as error:
        raise refused(str(error.explanation or error), made) from error
    except (DockerException, RequestException) as error:
        raise unreachable(host, error) from error


def refused(text: str, made: Container) -> DeploytoolError:
    """The error for what the engine said of this container."""
    for refusal in REFUSALS:
        found = re.search(refusal.pattern, text, re.MULTILINE)
        if found:
            words = {
                "found": (found.group(1) if found.re.groups else ""),
                "name": made.name,
                "port": made.port,
                "address": made.address,
                "image": made.image,
                "program": made.argv[0],
                "memory": made.memory_mib,
            }
            return refusal.kind(
                refusal.message.format(**words),
                hint=refusal.hint.format(**words),
                details=[f"Docker said: {text.strip()}"],
            )
    return StartFailed(
        f"Docker refused the container {made.name}: {text.strip()}",
        hint="the engine's own log says more: journalctl -u docker",
    )
