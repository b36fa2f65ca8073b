"""What a server process is given: its command line, its environment, its API key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.launch import LaunchSpec

KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
SECRET_NAME = "secret.yaml"  # noqa: S105 - a file name: SGLang reads its key from YAML, by the suffix


def server_argv(spec: LaunchSpec, folder: Path, key: str | None) -> list[str]:
    """The command line; a key that the engine takes from a file is written there, for the user only."""
    secret = folder / SECRET_NAME
    secret.unlink(missing_ok=True)
    if not (key and spec.secret and spec.secret.kind == "file"):
        return list(spec.argv)
    from deploytool.launch import SECRET_FILE

    content = spec.secret.content(key)
    handle = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    return [word.replace(SECRET_FILE, str(secret)) for word in spec.argv]


def server_environment(spec: LaunchSpec, key: str | None) -> dict[str, str]:
    """The user's environment, the engine's additions, the chosen cards, and the key if it goes that way."""
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    # Lines must reach the log at once: progress is read from it, and a killed server's last words.
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PATH"] = _with_own_programs(environment.get("PATH", os.defpath))
    environment |= chosen_cards(spec) | spec.env
    if key and spec.secret and spec.secret.kind == "env":
        environment[spec.secret.name or KEY_VARIABLE] = spec.secret.content(key)
    return environment


def chosen_cards(spec: LaunchSpec) -> dict[str, str]:
    """The variables that show a CUDA program these cards alone, numbered as NVML and nvidia-smi do."""
    if not spec.devices:
        return {}
    indices = ",".join(str(index) for index in spec.devices)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": indices}


def _with_own_programs(path: str) -> str:
    """An engine installed beside this tool is found although its environment is not activated."""
    own = str(Path(sys.executable).parent)
    return path if own in path.split(os.pathsep) else os.pathsep.join([own, path])
