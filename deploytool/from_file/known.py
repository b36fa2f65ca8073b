"""Reads a deployment file and checks its names: every one that does not exist is told with file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from deploytool import deployment_file
from deploytool.catalog import HUB_ID, Catalog
from deploytool.deployment_file import AUTO, DeploymentFile, Wanted, each
from deploytool.documents import Fault, Rule
from deploytool.engines import ENGINES, engine
from deploytool.errors import DeploytoolError, InvalidFile, nearest
from deploytool.hardware import Scalar
from deploytool.runtimes import runtime
from deploytool.settings import Setting


def read(path: Path, catalog: Catalog) -> DeploymentFile:
    """The file, checked against models, profiles, engines and runtimes; InvalidFile with every problem."""
    return deployment_file.read(path, [each(_names(catalog)), each(_settings)])


def _names(catalog: Catalog) -> Rule:
    def rule(one: Wanted) -> Iterator[Fault]:
        if one.model is not None and _is_name(one.model):
            yield from _told("model", lambda: catalog.model(one.model))
        if one.profile is not None:
            yield from _told("profile", lambda: catalog.hardware(one.profile))
        if one.runtime is not None:
            yield from _told("runtime", lambda: runtime(one.runtime))
        if one.engine is not None and one.engine != AUTO:
            yield from _told("engine", lambda: engine(one.engine))

    return rule


def _is_name(model: str) -> bool:
    """Whether it is to be a card's name; folders and hub ids are looked at when they are planned."""
    return not HUB_ID.fullmatch(model) and not model.startswith(("/", "~", ".")) and not Path(model).is_dir()


def _told(field: str, look_up: Callable[[], object]) -> Iterator[Fault]:
    try:
        look_up()
    except InvalidFile as error:  # the card's or profile's own file: that is where to mend
        yield Fault((field,), f"its own file cannot be used: {error.details[0]}")
    except DeploytoolError as error:
        yield Fault((field,), f"{error.message}{f'; {error.hint}' if error.hint else ''}")


def _settings(one: Wanted) -> Iterator[Fault]:
    """Settings that no engine knows, or the asked one does not, and values that cannot be read."""
    chosen = [ENGINES[one.engine]] if one.engine in ENGINES else list(ENGINES.values())
    known: dict[str, list[Setting]] = {}
    for found in chosen:
        for setting in found.settings:
            known.setdefault(setting.name, []).append(setting)
    for name, value in (one.set or {}).items():
        if name in deployment_file.OWN_FIELDS:
            continue  # told already
        if name not in known:
            near = nearest(name, known)
            guess = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
            yield Fault(("set", name), f"{_who(one)} such setting; {guess}")
        elif message := _unreadable(known[name], value):
            yield Fault(("set", name), message)


def _who(one: Wanted) -> str:
    return f"{one.engine} has no" if one.engine in ENGINES else "no engine has"


def _unreadable(settings: list[Setting], value: Scalar) -> str | None:
    """Why none of the engines' settings of that name takes the value; None where one does."""
    message = None
    for setting in settings:
        try:
            setting.parse(value)
        except ValueError as error:
            message = str(error)
        else:
            return None
    return message
