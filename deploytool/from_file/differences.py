"""What is deployed beside what a file asks for: new, changed field by field, gone, not running, as asked.

Only what the file says is compared, and what it no longer says: settings that a start was given. What the
planner computed follows from the machine of that moment and is nobody's wish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploytool.catalog import Catalog
from deploytool.deployment_file import AUTO, DeploymentFile, Wanted
from deploytool.engines import ENGINES
from deploytool.errors import DeploytoolError
from deploytool.hardware import Scalar
from deploytool.records import Deployment
from deploytool.schema import Document

Status = Literal["new", "changed", "gone", "not running", "as asked"]
GIVEN = ("flag", "deployment file")  # origins of a value that somebody asked for


class Difference(Document):
    """One field: what the running deployment has, and what the file asks for (None: nothing)."""

    field: str
    deployed: Any
    asked: Any

    def __str__(self) -> str:
        return f"{self.field}: {_text(self.deployed)} -> {_text(self.asked)}"


class Compared(Document):
    """One deployment of the file, or one that was brought up from it and is not in it any more."""

    name: str
    status: Status
    state: str | None = None
    reason: str | None = None
    differences: tuple[Difference, ...] = ()

    endpoint: bool = Field(default=False, exclude=True, description="whether replicas stand behind it")

    @property
    def needs_restart(self) -> bool:
        """Whether a change concerns the servers themselves, not how many they are or what is noted of them."""
        return any(difference.field not in self._borne for difference in self.differences)

    @property
    def needs_scaling(self) -> bool:
        """Whether it is an endpoint with more or fewer replicas than asked for."""
        return self.endpoint and any(difference.field == "replicas" for difference in self.differences)

    @property
    def _borne(self) -> tuple[str, ...]:
        return ("slo", "replicas") if self.endpoint else ("slo",)


def compare(
    file: DeploymentFile, path: Path, deployments: Sequence[Deployment], catalog: Catalog
) -> list[Compared]:
    """Every deployment of the file in its order, then those that it no longer names."""
    there = {one.name: one for one in deployments}
    found = [
        _compared(
            wanted,
            there.get(wanted.name),
            [one for one in deployments if one.group == wanted.name],
            catalog,
        )
        for wanted in file.deployments
    ]
    return found + [
        Compared(name=one.name, status="gone", state=one.state)
        for one in deployments
        if one.group is None
        and one.from_file == str(path.expanduser().absolute())
        and file.named(one.name) is None
    ]


def _compared(
    wanted: Wanted, found: Deployment | None, replicas: Sequence[Deployment], catalog: Catalog
) -> Compared:
    if found is None:
        return Compared(name=wanted.name, status="new")
    differences = tuple(_differences(wanted, found, replicas, catalog))
    running = found.state in ("ready", "starting")
    status: Status = "changed" if differences else "as asked" if running else "not running"
    return Compared(
        name=wanted.name, status=status, state=found.state, reason=found.reason, differences=differences,
        endpoint=found.is_endpoint,
    )  # fmt: skip


def _differences(
    wanted: Wanted, found: Deployment, replicas: Sequence[Deployment], catalog: Catalog
) -> Iterator[Difference]:
    model, profile = _model(wanted.model, catalog), catalog.hardware(wanted.profile)
    if model != found.model:
        yield Difference(field="model", deployed=found.model, asked=model)
    if found.profile not in (profile.name, *profile.members):
        yield Difference(field="profile", deployed=found.profile, asked=profile.name)
    if wanted.engine not in (AUTO, found.engine):
        yield Difference(field="engine", deployed=found.engine, asked=wanted.engine)
    count = len(replicas) if found.is_endpoint else 1
    if wanted.replicas != count:
        yield Difference(field="replicas", deployed=count, asked=wanted.replicas)
    yield from _launch(wanted, found, replicas[0] if replicas else found)
    yield from _settings(wanted, found)
    if wanted.slo != found.slo:
        yield Difference(field="slo", deployed=found.slo, asked=wanted.slo)


def _model(reference: str, catalog: Catalog) -> str:
    """The model's name; as it is written where its files are gone: starting it says what is wrong then."""
    try:
        return catalog.model(reference).name
    except DeploytoolError:
        return reference


def _launch(wanted: Wanted, found: Deployment, server: Deployment) -> Iterator[Difference]:
    """What the start itself was told, where the file says something of it; `server`: it, or one of its replicas."""
    launch = server.launch
    key = f"file {wanted.api_key_file}" if wanted.api_key_file is not None else None
    asked: dict[str, tuple[object, object]] = {
        "runtime": (server.runtime, wanted.runtime),
        "gpu": (list(found.launch.devices), list(wanted.gpu) or None),
        "image": (launch.image, wanted.image),
        "memory_limit_mib": (launch.memory_limit_mib, wanted.memory_limit_mib),
        "api_key_file": (found.key_source, key),
    }
    for field, (deployed, value) in asked.items():
        if value is not None and value != deployed:
            yield Difference(field=field, deployed=deployed, asked=value)


def _settings(wanted: Wanted, found: Deployment) -> Iterator[Difference]:
    """The settings that the file gives, and those that a start was given and the file does not."""
    entries: Mapping[str, Any] = {entry["name"]: entry for entry in found.plan.get("values", ())}
    asked = wanted.settings()
    for name, value in asked.items():
        deployed = found.launch.port if name == "port" else entries.get(name, {}).get("value")
        parsed = _parsed(found.engine, name, value)
        if (name, parsed) != ("port", AUTO) and parsed != deployed:
            yield Difference(field=_field(name), deployed=deployed, asked=parsed)
    for name, entry in entries.items():
        if entry.get("origin") in GIVEN and name not in asked:
            yield Difference(field=_field(name), deployed=entry.get("value"), asked=None)


def _field(name: str) -> str:
    return name if name in ("host", "port") else f"set.{name}"


def _parsed(engine: str, name: str, value: Scalar) -> Scalar:
    """A value as the engine reads it, so that "256" and 256 are the same."""
    for setting in ENGINES[engine].settings if engine in ENGINES else ():
        if setting.name == name:
            try:
                return setting.parse(value)
            except ValueError:
                break
    return value


def _text(value: object) -> str:
    return "nothing" if value is None or value == [] else str(value)
