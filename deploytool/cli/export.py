"""`export`: a deployment, or those of a file, as Compose or Kubernetes files. Only here is anything written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli.files import write_output
from deploytool.cli.output import note, say
from deploytool.errors import BadInput, DeploytoolError

if TYPE_CHECKING:
    from deploytool.catalog import Catalog
    from deploytool.deployment_file import Wanted
    from deploytool.exporters.service import Service
    from deploytool.exporting import Target

app = typer.Typer(
    help="Files for other machines: compose, kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(help="A deployment's name (`deploytool ps`).")]
File = Annotated[
    Path | None, typer.Option("-f", "--file", metavar="FILE", help="A deployment file: all that it holds.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Write the files there. [default: print them]"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there and differ.")]
Replicas = Annotated[
    int | None,
    typer.Option("--replicas", metavar="N", min=1, help="Servers. [default: as deployed or asked]"),
]
ReplicasFrom = Annotated[
    Path | None,
    typer.Option(
        "--replicas-from", metavar="PLAN", help="Servers by a capacity plan: what `capacity --json` printed."
    ),
]
Image = Annotated[str | None, typer.Option("--image", help="Container image, such as one in your registry.")]
ProfilesDir = Annotated[
    Path | None, typer.Option("--profiles-dir", help="Folder with hardware/ and models/ searched first.")
]


@app.command("compose")
def compose(
    name: Name = None,
    file: File = None,
    output: Output = None,
    replicas: Replicas = None,
    replicas_from: ReplicasFrom = None,
    image: Image = None,
    overwrite: Overwrite = False,
    profiles_dir: ProfilesDir = None,
) -> None:
    """Write a compose.yaml: hardened containers, cards, health checks; sglang-router before several replicas."""
    from deploytool.exporters import compose as exporter

    services = _services("compose", name, file, replicas, replicas_from, image, profiles_dir, fetched=True)
    _write(exporter.files(services), output, overwrite=overwrite)


@app.command("kubernetes")
def kubernetes(
    name: Name = None,
    file: File = None,
    output: Output = None,
    replicas: Replicas = None,
    replicas_from: ReplicasFrom = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            "--max-replicas",
            metavar="N",
            min=1,
            help="How far to scale by load. [default: twice the replicas; the same number: not at all]",
        ),
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option("--claim", metavar="NAME", help="A claim that holds the model: nothing is fetched."),
    ] = None,
    storage_class: Annotated[
        str | None,
        typer.Option("--storage-class", metavar="NAME", help="Of the claims that hold the model."),
    ] = None,
    image: Image = None,
    overwrite: Overwrite = False,
    profiles_dir: ProfilesDir = None,
) -> None:
    """Write manifests for Kubernetes: workload, Service, probes, scaling, network policy, monitoring."""
    from deploytool.exporters import kubernetes as exporter

    if claim and storage_class:
        raise BadInput("--storage-class is for claims that are made", hint="leave it out beside --claim")
    services = _services(
        "kubernetes", name, file, replicas, replicas_from, image, profiles_dir, fetched=claim is None
    )
    written: dict[str, str] = {}
    for service in services:
        if max_replicas is not None and max_replicas < service.replicas:
            raise BadInput(
                f"--max-replicas {max_replicas} is below the {service.replicas} replicas of {service.name}",
                hint="the same number scales nothing",
            )
        choices = exporter.Choices(claim=claim, storage_class=storage_class, most=max_replicas)
        made = exporter.files(service, choices)
        twice = made.keys() & written.keys()
        if twice:
            raise BadInput(f"two deployments would both be {min(twice)}", hint="rename one of them")
        written |= made
    _write(written, output, overwrite=overwrite)


def _services(
    target: Target,
    name: str | None,
    file: Path | None,
    replicas: int | None,
    replicas_from: Path | None,
    image: str | None,
    profiles_dir: Path | None,
    *,
    fetched: bool,
) -> list[Service]:
    """What was named, planned for elsewhere; remarks on stderr."""
    if replicas is not None and replicas_from is not None:
        raise BadInput("--replicas and --replicas-from exclude each other", hint="leave one of them out")
    wanted, catalog = _wanted(name, file, profiles_dir)
    if len(wanted) > 1 and (replicas_from is not None or image is not None):
        raise BadInput(
            f"{'--image' if image else '--replicas-from'} is for one deployment, and {file} holds {len(wanted)}",
            hint="say it in the file (replicas:, image:), or export a file that holds one",
        )
    found = []
    for one in wanted:
        with _named(one.name if file is not None else None):
            found.append(_one(one, target, catalog, replicas, replicas_from, image, fetched=fetched))
    return found


@contextlib.contextmanager
def _named(name: str | None) -> Iterator[None]:
    """An error of one of several says whose it is."""
    try:
        yield
    except DeploytoolError as error:
        error.message = f"{name}: {error.message}" if name is not None else error.message
        raise


def _one(
    wanted: Wanted,
    target: Target,
    catalog: Catalog,
    replicas: int | None,
    replicas_from: Path | None,
    image: str | None,
    *,
    fetched: bool,
) -> Service:
    from deploytool.exporting import check_fetched, replicas_of, service
    from deploytool.plans import resolve_alias

    count = replicas
    if replicas_from is not None:
        profile = resolve_alias(catalog.hardware(wanted.profile), catalog)
        count, remarks = replicas_of(replicas_from, wanted, profile)
        for remark in remarks:
            note(remark)
    made = service(wanted, target, catalog, image=image, replicas=count)
    if fetched:
        check_fetched(made)
    _remark(made)
    return made


def _wanted(name: str | None, file: Path | None, profiles_dir: Path | None) -> tuple[list[Wanted], Catalog]:
    from deploytool.catalog import Catalog

    if (name is None) == (file is None):
        raise BadInput("say what to export", hint="a deployment's NAME, or -f FILE with a deployment file")
    if file is not None:
        from deploytool.from_file.known import read

        catalog = Catalog(profiles_dir)
        return list(read(file, catalog).deployments), catalog
    from deploytool.exporting import recorded
    from deploytool.store import Store

    with Store() as store:
        deployment = store.deployment(name or "")
    recorded_dir = Path(deployment.profiles_dir) if deployment.profiles_dir else None
    return [recorded(deployment)], Catalog(profiles_dir or recorded_dir)


def _remark(service: Service) -> None:
    """What has to be done by hand for these files to work."""
    if (service.launch.image or "").startswith("deploytool/"):
        note(f"note: {service.launch.image} is made by `deploytool image build`: push it to a registry of")
        note("note: yours and give its name there with --image, unless the other machine has it already")
    if service.model is None and service.card.revision is None and service.card.hub_id:
        note(f"note: {service.card.hub_id} is fetched as it is then: its card pins no revision")


def _write(files: Mapping[str, str], folder: Path | None, *, overwrite: bool) -> None:
    """All files or none: what is there and differs is not replaced unasked."""
    if folder is None:
        say("\n".join(text.rstrip("\n") for text in files.values()))
        return
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"-o {folder} is a file", hint="give a folder")
    there = [
        name
        for name, text in files.items()
        if os.path.lexists(folder / name) and not _same(folder / name, text)
    ]
    if there and not overwrite:
        raise BadInput(
            f"{', '.join(there)} in {folder} would be replaced, and differ{'s' if len(there) == 1 else ''}",
            hint="--overwrite replaces them, or give another folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make {folder}: {error.strerror or error}") from error
    for name, text in files.items():
        write_output(folder / name, text)
        say(str(folder / name))


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
