"""API keys: read from a file or a variable, handed on in memory; a record says only where the key is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.errors import BadInput

if TYPE_CHECKING:
    from deploytool.records import Deployment

KEY_VARIABLE = "DEPLOYTOOL_API_KEY"


@dataclass(frozen=True)
class Key:
    """An API key and where it came from ("file PATH", "env NAME"); its repr does not show it."""

    source: str
    value: str = field(repr=False)


def given_key(api_key_file: Path | None, environ: Mapping[str, str]) -> Key | None:
    """The key that a new deployment enforces: of `--api-key-file`, else of DEPLOYTOOL_API_KEY, else none.

    BadInput where the file cannot be read or holds no key.
    """
    if api_key_file is not None:
        from deploytool.targets import read_key

        path = api_key_file.expanduser().absolute()
        return Key(f"file {path}", read_key(path))
    if not environ.get(KEY_VARIABLE):
        return None
    from deploytool.wire.addresses import checked_key

    value = checked_key(environ[KEY_VARIABLE])
    return Key(f"env {KEY_VARIABLE}", value) if value else None


def recorded_key(deployment: Deployment, environ: Mapping[str, str]) -> Key | None:
    """The key of a deployment, read again from where its record says; BadInput where it is gone."""
    if deployment.key_source is None:
        return None
    kind, _, place = deployment.key_source.partition(" ")
    if kind == "file":
        return given_key(Path(place), {})
    if not environ.get(place):
        raise BadInput(
            f"{deployment.name} was started with the API key of the variable {place}, which is not set",
            hint=f"set {place} to the same key",
        )
    return given_key(None, {KEY_VARIABLE: environ[place]})
