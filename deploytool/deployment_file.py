"""Deployment files: several deployments as one YAML file, for `up -f`, `diff -f`, `down -f` and `export -f`.

    deployments:
      - name: search
        model: all-minilm-l6-v2
        profile: cpu
        port: 8080
        set: {max_length: 256}

Here is what stands in a file, and which fields of it contradict each other; `read` takes further rules from
those who know models, profiles, engines and runtimes. Paths in a file are relative to the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from deploytool.documents import Fault, Rule, load
from deploytool.errors import DeploytoolError
from deploytool.hardware import Scalar
from deploytool.schema import Document
from deploytool.thresholds import parse_slo

AUTO = "auto"
HIGHEST_PORT = 65535
OWN_FIELDS = ("host", "port", "engine", "profile")  # said beside `set`, not in it


class Wanted(Document):
    """One deployment as the file asks for it. What is left out is chosen as `up` chooses it."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        description="The deployment's name, as `ps`, `status` and `down` use it: a-z, 0-9, '.', '_', '-'.",
    )
    model: str = Field(
        description="A model card's name (`deploytool models list`), a folder with a model's files, or a"
        " hub id (org/name)."
    )
    profile: str = Field(
        description="The hardware it runs on (`deploytool profiles list`), e.g. cpu or a10g."
    )
    engine: str = Field(default=AUTO, description="The serving engine; auto: the first that serves it right.")
    runtime: str = Field(
        default="process", description="process: on this machine itself; docker: in a container."
    )
    host: str | None = Field(
        default=None, description="Address to listen on. Default 127.0.0.1; others need an API key."
    )
    port: int | str | None = Field(
        default=None,
        description="Port to listen on, 1 to 65535, or auto for a free one. Default: the engine's.",
    )
    gpu: tuple[int, ...] = Field(
        default=(),
        description="GPUs to take, numbered as nvidia-smi does. Default: those with most free memory.",
    )
    replicas: int = Field(default=1, ge=1, description="How many servers of it, behind one address.")
    set: dict[str, Scalar] = Field(
        default_factory=dict, description="Settings of the engine, as `up --set NAME=VALUE` takes them."
    )
    api_key_file: Path | None = Field(
        default=None, description="File with the API key that clients must send. The key never stands here."
    )
    slo: str | None = Field(
        default=None,
        description='What it is to hold, as `capacity --slo` reads it: "p99<=150ms,errors<=0.1%".',
    )
    image: str | None = Field(
        default=None, description="Container image; default: the engine's for this card. For containers."
    )
    memory_limit_mib: int | None = Field(
        default=None, ge=64, description="Host memory that a container may use, in MiB. For containers."
    )
    wait_s: float | None = Field(
        default=None, gt=0, description="Seconds to wait until it is ready. Default: the engine's."
    )
    smoke: bool = Field(default=True, description="Run the smoke checks before it counts as ready.")

    def settings(self) -> dict[str, Scalar]:
        """Everything that this asks of the engine: the deployment-file layer of a plan."""
        network: dict[str, Scalar | None] = {"host": self.host, "port": self.port}
        return {**self.set, **{name: value for name, value in network.items() if value is not None}}


class DeploymentFile(Document):
    """A deployment file."""

    deployments: tuple[Wanted, ...] = Field(
        description="The deployments, in starting order.", json_schema_extra={"minItems": 1}
    )

    def named(self, name: str) -> Wanted | None:
        return next((one for one in self.deployments if one.name == name), None)


def read(path: Path, rules: Sequence[Rule] = ()) -> DeploymentFile:
    """The file, with its own paths made absolute. InvalidFile with every problem: file, line, field."""
    path = path.expanduser()
    document = load(path, DeploymentFile, [_names, _ports, *map(each, (_fields, _slo)), *rules])
    folder = path.absolute().parent
    return document.model_copy(
        update={"deployments": tuple(_absolute(one, folder) for one in document.deployments)}
    )


def each(rule: Rule) -> Rule:
    """A rule on one deployment as a rule on the file. Fields that could not be read are None."""

    def over_all(document: DeploymentFile) -> Iterable[Fault]:
        for index, one in enumerate(document.deployments or ()):
            if one is not None:
                for fault in rule(one):
                    yield Fault(("deployments", index, *fault.field), fault.message)

    return over_all


def _absolute(one: Wanted, folder: Path) -> Wanted:
    changes: dict[str, object] = {}
    if one.api_key_file is not None:
        changes["api_key_file"] = folder / one.api_key_file.expanduser()
    if one.model.startswith(("./", "../")):
        changes["model"] = str((folder / one.model).resolve())
    return one.model_copy(update=changes)


def _names(document: DeploymentFile) -> Iterator[Fault]:
    if document.deployments == ():
        yield Fault(("deployments",), "expected at least one deployment: {name, model, profile}")
    yield from _twice(document, "name")


def _ports(document: DeploymentFile) -> Iterator[Fault]:
    yield from _twice(document, "port")
    for index, one in enumerate(document.deployments or ()):
        port = one.port if one is not None else None
        if port is None or port == AUTO:
            continue
        if isinstance(port, str | bool) or not 1 <= port <= HIGHEST_PORT:
            yield Fault(
                ("deployments", index, "port"), f"expected 1 to {HIGHEST_PORT}, or auto, got {port!r}"
            )


def _twice(document: DeploymentFile, field: str) -> Iterator[Fault]:
    seen: dict[object, int] = {}
    for index, one in enumerate(document.deployments or ()):
        value = getattr(one, field, None)
        if value is None or value == AUTO:
            continue
        if value in seen:
            first = f"deployments[{seen[value]}]"
            yield Fault(("deployments", index, field), f"{value} is taken by {first} of this file")
        seen.setdefault(value, index)


def _fields(one: Wanted) -> Iterator[Fault]:
    """What belongs to another field, another runtime or another profile."""
    for name in one.set or ():
        if name in OWN_FIELDS:
            yield Fault(("set", name), f"this is a field of its own: write `{name}:` beside `set:`")
    if one.runtime == "process":
        for name in ("image", "memory_limit_mib"):
            if getattr(one, name) is not None:
                yield Fault((name,), "is for containers: add `runtime: docker`, or leave it out")
    if one.profile == "cpu" and one.gpu:
        yield Fault(("gpu",), "the profile cpu uses no card: leave this out, or take a card's profile")
    if any(index < 0 for index in one.gpu or ()) or len({*(one.gpu or ())}) < len(one.gpu or ()):
        yield Fault(("gpu",), "expected different GPU numbers as nvidia-smi shows them, such as [0, 1]")


def _slo(one: Wanted) -> Iterator[Fault]:
    if one.slo is None:
        return
    try:
        parse_slo(one.slo, "slo")
    except DeploytoolError as error:
        yield Fault(("slo",), f"{error.message}{f' ({error.hint})' if error.hint else ''}")
