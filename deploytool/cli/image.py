"""`image build`: the container image of the SentenceTransformers server."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Container images of this tool: build.")


@app.callback()
def image() -> None:
    """Container images of this tool: build."""


@app.command("build")
def build(
    variant: Annotated[
        Literal["cpu", "cuda"], typer.Option("--variant", help="For processors, or for NVIDIA cards.")
    ] = "cpu",
    tag: Annotated[
        str | None, typer.Option("--tag", help="The image's name (default: the one that `up` looks for).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Base image with Python 3.11 or newer (default: Python's own)."),
    ] = None,
    torch_index: Annotated[
        str | None,
        typer.Option(
            "--torch-index",
            metavar="URL",
            help="Where torch alone comes from: PyTorch's index for processors.",
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME=VALUE", help="Another ARG of the Dockerfile; may be repeated."
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Network of the build's steps, such as host.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Build every step anew.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Build the image of the SentenceTransformers server, which `up --runtime docker` runs.

    Fetches the base image and pinned packages. Everything that it needs of this tool is packaged with it.
    """
    from deploytool.runtimes import docker_build

    given = _arguments(arguments or [])
    given |= {name: value for name, value in (("BASE", base), ("TORCH_INDEX", torch_index)) if value}
    if variant == "cpu" and not given.get("TORCH_INDEX"):
        note("warning: without --torch-index the image may hold CUDA libraries that processors do not need")
    name = tag or docker_build.server_image(variant)
    identity = docker_build.build(name, variant, given, note, fresh=no_cache, network=network)
    if json:
        emit({"image": name, "id": identity, "variant": variant})
        return
    say(f"built {name}")
    say(f"  deploytool up MODEL --profile PROFILE --runtime docker{f' --image {name}' if tag else ''}")


def _arguments(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise BadInput(f"--build-arg {name}{equals}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}
