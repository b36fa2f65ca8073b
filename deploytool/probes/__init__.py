"""Proofs over HTTP that a server is alive, ready and right: any OpenAI-compatible one, whoever started it.

`alive` asks one path; `prove` is the readiness proof (a few hundred ms); `smoke` runs every check. What needs
a client and model cards is imported when it is asked for: `ps` asks only who is alive.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deploytool.probes.liveness import Probe, alive

if TYPE_CHECKING:
    from deploytool.probes.check import Check
    from deploytool.probes.suite import prove, smoke

__all__ = ["Check", "Probe", "alive", "prove", "smoke"]

_LATER = {"Check": "check", "prove": "suite", "smoke": "suite"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
