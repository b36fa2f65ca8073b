"""Deployments: bring one up, know what became of all of them, stop, restart, take down, read the log.

up       reserve name and port -> start -> wait -> prove -> ready; cleaned up where any of that fails
refresh  what is really there, whoever was killed: every command that reads deployments begins with it, `ps` with
         `listed`, which is the same for who only shows them

The names are imported when they are used: `ps` needs little of this and is to answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploytool.deployment.bring_up import UpOptions, restart, up
    from deploytool.deployment.ending import down, stop
    from deploytool.deployment.keys import Key, given_key
    from deploytool.deployment.logs import log_lines
    from deploytool.deployment.measured import memory_now
    from deploytool.deployment.refreshing import listed, refresh, refresh_one, strays
    from deploytool.deployment.routing import replicas_of
    from deploytool.deployment.scaling import scale

__all__ = [
    "Key",
    "UpOptions",
    "down",
    "given_key",
    "listed",
    "log_lines",
    "memory_now",
    "refresh",
    "refresh_one",
    "replicas_of",
    "restart",
    "scale",
    "stop",
    "strays",
    "up",
]

_MODULES = {
    "Key": "keys",
    "UpOptions": "bring_up",
    "down": "ending",
    "given_key": "keys",
    "listed": "refreshing",
    "log_lines": "logs",
    "memory_now": "measured",
    "refresh": "refreshing",
    "refresh_one": "refreshing",
    "replicas_of": "routing",
    "restart": "bring_up",
    "scale": "scaling",
    "stop": "ending",
    "strays": "refreshing",
    "up": "bring_up",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
