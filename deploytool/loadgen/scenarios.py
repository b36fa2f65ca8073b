"""Named kinds of load: options in a YAML file each, that the command line's own options win over."""

from __future__ import annotations

from pathlib import Path

from deploytool.errors import UnknownName
from deploytool.paths import packaged


def names() -> list[str]:
    return sorted(path.stem for path in (packaged("loadtests") / "scenarios").glob("*.yaml"))


def file_of(name: str) -> Path:
    """The file of a built-in scenario, or a file of the user's own (`./mine.yaml`). UnknownName otherwise."""
    own = Path(name)
    if own.suffix in (".yaml", ".yml") and own.is_file():
        return own
    path = packaged("loadtests") / "scenarios" / f"{name}.yaml"
    if name not in names():
        raise UnknownName("scenario", name, names(), hint="or give a YAML file of your own")
    return path
