"""The systemd user unit that runs `deploytool watch`.

Directives: systemd.service(5), systemd.exec(5), systemd.kill(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deploytool.errors import NotAvailable
from deploytool.paths import config_dir
from deploytool.records import Deployment

NAME = "deploytool-watch.service"
ENVIRONMENT_FILE = "watch.env"
COMMANDS = ("systemctl --user daemon-reload", f"systemctl --user enable --now {NAME}")
LINGER = "loginctl enable-linger"

UNIT = """\
[Unit]
Description=deploytool watch: keeps the deployments of {home} up
# systemd itself does not give up: watch counts the restarts of each deployment.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={program} -m deploytool watch
Environment={environment}
# API keys of the deployments, NAME=VALUE a line, readable by you alone. It may be missing.
EnvironmentFile=-{keys}
Restart=always
RestartSec=5
# The servers outlive their watcher: only the watcher itself is ended with the unit.
KillMode=process
# A server that runs out of memory must not take the watcher with it.
OOMPolicy=continue
UMask=0077

[Install]
WantedBy=default.target
"""


def unit(program: str, state: Path) -> str:
    """The unit's text: this interpreter, and the state folder (`DEPLOYTOOL_HOME`) that is in use now."""
    home = os.environ.get("DEPLOYTOOL_HOME")
    environment = [f"PATH={os.environ.get('PATH', os.defpath)}"]
    if home:
        environment.append(f"DEPLOYTOOL_HOME={Path(home).expanduser().resolve()}")
    return UNIT.format(
        home=_specifiers(str(state)),
        program=_quoted(program.replace("$", "$$")),
        environment=" ".join(_quoted(one) for one in environment),
        keys=_specifiers(str(config_dir() / ENVIRONMENT_FILE)),
    )


def path() -> Path:
    """Where systemd looks for the user's own units."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "systemd" / "user" / NAME


def write(text: str) -> Path:
    """Write the unit, whole or not at all; returns where. NotAvailable where that folder cannot be written."""
    place = path()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
    except OSError as error:
        raise NotAvailable(
            f"{error.filename or place}: {error.strerror or error}",
            hint=f"`deploytool service install --print` shows the unit: put it there as {NAME} yourself",
        ) from error
    return place


def key_places(deployments: Iterable[Deployment]) -> list[str]:
    """A line for each deployment whose key stands in a variable, which a service does not have by itself."""
    place = config_dir() / ENVIRONMENT_FILE
    return [
        f"{one.name} was started with the key of the variable {one.key_source.removeprefix('env ')}: put it into"
        f" {place} (chmod 600), or start it again with --api-key-file"
        for one in deployments
        if one.key_source and one.key_source.startswith("env ")
    ]


def _quoted(word: str) -> str:
    """A word as unit files take it: in double quotes; `%`, quotes and backslashes stand for themselves."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_specifiers(plain)}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")
