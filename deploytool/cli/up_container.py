"""`up --runtime docker`: the options of containers, the plan as a container's, and its image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploytool.errors import BadInput
from deploytool.plans import Prepared
from deploytool.runtimes import runtime

if TYPE_CHECKING:
    from deploytool.cli.deploy_view import Narrator

PANEL = "Docker"
PROCESS, DOCKER = "process", "docker"

RuntimeName = Annotated[
    str | None,
    typer.Option("--runtime", help="process (the default): on this machine itself; docker: in a container."),
]
Image = Annotated[
    str | None,
    typer.Option(
        "--image", help="Container image (default: the engine's for this card).", rich_help_panel=PANEL
    ),
]
Pull = Annotated[
    bool, typer.Option("--pull", help="Fetch the image from its registry first.", rich_help_panel=PANEL)
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Fetch nothing, neither image nor model: what is missing is told.")
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        metavar="MIB",
        help="Memory of the machine that the container may use (default: by the plan).",
        rich_help_panel=PANEL,
    ),
]


class Containing(NamedTuple):
    """How a deployment is to be run; `docker` False: as a process, and nothing of this applies."""

    docker: bool
    image: str | None
    pull: bool
    offline: bool
    memory_limit_mib: int | None

    def plan(self, prepared: Prepared) -> Prepared:
        """The plan as a container's; a process's stays as it is."""
        if not self.docker:
            return prepared
        from deploytool.plans.containers import contained

        return contained(prepared, image=self.image, memory_limit_mib=self.memory_limit_mib)

    def show(self, prepared: Prepared, *, json: bool) -> None:
        """After the plan of `--dry-run`: the container's command, for people."""
        if not self.docker or json:
            return
        from deploytool.cli.output import say
        from deploytool.deployment.bring_up import UpOptions, record

        say()
        say(runtime(DOCKER).command(record(prepared, UpOptions(runtime=DOCKER), None)))

    def obtain(self, prepared: Prepared, narrator: Narrator) -> None:
        """Have the image here, fetched only where that was asked for."""
        if not self.docker:
            return
        from deploytool.runtimes import docker_images
        from deploytool.runtimes.docker_api import engine_host

        try:
            docker_images.obtain(
                engine_host(), prepared.plan.launch.image or "", pull=self.pull, offline=self.offline,
                say=narrator.line, tick=narrator.tick,
            )  # fmt: skip
        finally:
            narrator.clear()


def containing(
    name: str, *, image: str | None, pull: bool, offline: bool, memory_limit_mib: int | None
) -> Containing:
    """The options checked against each other; BadInput. `--offline` holds for models, too."""
    runtime(name)
    if offline and pull:
        raise BadInput("--pull and --offline exclude each other", hint="leave one of them out")
    if name != DOCKER:
        given = {"--image": image, "--pull": pull or None, "--memory-limit": memory_limit_mib}
        for option, value in given.items():
            if value is not None:
                raise BadInput(f"{option} is for containers", hint="--runtime docker, or leave it out")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the look into the cache here, and for the server
    return Containing(name == DOCKER, image, pull, offline, memory_limit_mib)
