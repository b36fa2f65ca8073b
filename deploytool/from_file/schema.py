"""JSON Schemas of the YAML files that people write, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deploytool.deployment_file import AUTO, HIGHEST_PORT, DeploymentFile
from deploytool.engines import ENGINES
from deploytool.errors import UnknownName
from deploytool.hardware import HardwareProfile
from deploytool.models import ModelCard
from deploytool.runtimes import RUNTIMES
from deploytool.schema import Document
from deploytool.settings import Setting

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS: dict[str, type[Document]] = {
    "deployment": DeploymentFile,
    "hardware": HardwareProfile,
    "model": ModelCard,
}
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def schema(kind: str, *, models: Iterable[str] = (), profiles: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of file; UnknownName for no kind.

    `models` and `profiles`: names known here, offered as examples in a deployment file's schema.
    """
    if kind not in KINDS:
        raise UnknownName("kind of file", kind, KINDS)
    found = {"$schema": DIALECT, **KINDS[kind].model_json_schema()}
    if kind == "deployment":
        wanted = found["$defs"]["Wanted"]["properties"]
        wanted["model"]["examples"] = list(models)
        wanted["profile"]["examples"] = list(profiles)
        wanted["engine"]["enum"] = [AUTO, *ENGINES]
        wanted["runtime"]["enum"] = list(RUNTIMES)
        wanted["port"]["anyOf"] = [
            {"type": "integer", "minimum": 1, "maximum": HIGHEST_PORT},
            {"const": AUTO},
        ]
        wanted["set"] |= {"properties": _settings(), "additionalProperties": False}
    return found


def _settings() -> dict[str, Any]:
    """Every setting of every engine; one that several know says what each of them takes."""
    found: dict[str, list[tuple[str, Setting]]] = {}
    for name, engine in ENGINES.items():
        for setting in engine.settings:
            if setting.name not in ("host", "port"):
                found.setdefault(setting.name, []).append((name, setting))
    return {name: _setting(known) for name, known in sorted(found.items())}


def _setting(known: list[tuple[str, Setting]]) -> dict[str, Any]:
    texts = {
        setting.help: [name for name, other in known if other.help == setting.help] for _, setting in known
    }
    described = "; ".join(f"{help} ({', '.join(names)})" for help, names in texts.items())
    kinds = {str(_accepts(setting)): _accepts(setting) for _, setting in known}.values()
    return {"description": described, **(next(iter(kinds)) if len(kinds) == 1 else {"anyOf": list(kinds)})}


def _accepts(setting: Setting) -> dict[str, Any]:
    """What one setting takes, as a schema."""
    accepted: dict[str, Any] = {"type": _TYPES[setting.type]}
    if setting.choices:
        accepted["enum"] = list(setting.choices)
    if setting.minimum is not None:
        accepted["minimum"] = setting.minimum
    if setting.maximum is not None:
        accepted["maximum"] = setting.maximum
    return {"anyOf": [accepted, {"enum": list(setting.words)}]} if setting.words else accepted
